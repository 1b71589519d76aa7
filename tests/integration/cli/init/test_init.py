"""``edgeslm init`` at a real broker and on recorded lines."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from edgeslm.cli import main
from edgeslm.config.loader import load_config
from tests.support.apps import App
from tests.support.brokers import Mosquitto, free_port

LABELS = ("--labels", "plumbing=water and drains, electrical=power and light")


def init(*arguments: str | Path) -> int:
    return main.main(["init", *map(str, arguments)])


def test_what_passes_becomes_a_route(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = threading.Event()

    def play(app: App) -> None:
        while not stop.is_set():
            app.publish("building/1/note", {"text": "The basin in room 3 leaks", "floor": 3})
            app.publish("building/2/note", {"text": "The light in the hall is broken", "floor": 0})
            time.sleep(0.1)

    with App(broker.port) as app:
        app.publish("sensors/a/temp", b"21.5", retain=True)
        thread = threading.Thread(target=play, args=(app,))
        thread.start()
        try:
            file = tmp_path / "node.yaml"
            assert init(file, "--broker", broker.url, "--listen", "2", *LABELS) == 0
        finally:
            stop.set()
            thread.join()
    said = capsys.readouterr().out
    assert "1  building/+/note" in said and "JSON with the text in text, also floor" in said
    assert "sensors/a/temp" in said and "1 retained" in said
    assert "The node publishes results on building/+/note/label\n" in said
    config = load_config(file)
    (route,) = config.routes
    assert (route.source, route.input) == ("building/+/note", "{{ payload.text }}")
    assert route.to == "building/{{ topic[1] }}/note/label"
    assert list(config.tasks["label"].labels or ()) == ["plumbing", "electrical"]
    assert main.main(["check", str(file)]) == 0
    assert init(file, "--broker", broker.url, *LABELS) == 1, "an existing file is kept"


def test_recorded_lines_are_read_as_mosquitto_sub_prints_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text('a/1/log {"message": "Spindle 3 smells of oil", "level": 3}\na/1/temp 21\n')
    file = tmp_path / "node.yaml"
    wanted = ("--broker", "broker.local", "--from", lines, "--fields", "machine, temperature_c:number")
    assert init(file, *wanted) == 0
    config = load_config(file)
    assert config.broker.url == "mqtt://broker.local"
    assert config.routes[0].input == "{{ payload.message }}"
    assert config.tasks["fields"].output_schema is not None
    assert "delete the file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--labels", "one"), "two labels or more are needed"),
        (("--do", "label"), "Nobody can be asked here: add --labels"),
        (("--topic", "a/#/b", *LABELS), "--topic"),
    ],
)
def test_wrong_options_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a The basin in room 3 leaks\n")
    file = tmp_path / "node.yaml"
    assert init(file, "--broker", "localhost", "--from", lines, *arguments) == 1
    assert sentence in capsys.readouterr().err
    assert not file.exists()


def test_labels_are_shown_as_understood_and_may_be_typed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a The basin in room 3 leaks\n")
    typed = io.StringIO("a=one, b=two\nno\nmechanical=bearings, belts, electrical=power, sensors\ny\nno\n")
    typed.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", typed)
    file = tmp_path / "node.yaml"
    assert init(file, "--broker", "localhost", "--from", lines, "--do", "label") == 0
    assert (
        "2 labels:\n  mechanical  bearings, belts\n  electrical  power, sensors\n" in capsys.readouterr().out
    )
    labels = {"mechanical": "bearings, belts", "electrical": "power, sensors"}
    assert dict(load_config(file).tasks["label"].labels or {}) == labels


def test_a_csv_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "notes.CSV"
    lines.write_text("text,label\nshaft of conveyor 3 bent,mechanical\n")
    assert init(tmp_path / "n.yaml", "--broker", "localhost", "--from", lines, *LABELS) == 1
    assert "is a CSV file, which has no topics; edgeslm-export tune" in capsys.readouterr().err


def test_traffic_without_text_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("a 21\nb ON\n")
    assert init(tmp_path / "n.yaml", "--broker", "localhost", "--from", lines, *LABELS) == 1
    assert "None of these messages has text" in capsys.readouterr().err


def test_a_silent_broker_is_an_error(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "n.yaml", "--broker", broker.url, "--listen", "0.5", *LABELS) == 1
    assert "Nothing passed on #" in capsys.readouterr().err


@pytest.mark.parametrize("retained", [True, False])
def test_ctrl_c_is_enough_once_messages_were_heard(
    broker: Mosquitto, tmp_path: Path, capsys: pytest.CaptureFixture[str], retained: bool
) -> None:
    file = tmp_path / "node.yaml"
    with App(broker.port) as app:
        if retained:
            app.publish("building/1/note", "The basin in room 3 leaks", retain=True)
        stop = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
        stop.start()
        try:
            assert init(file, "--broker", broker.url, *LABELS) == (0 if retained else 130)
        finally:
            stop.cancel()
    assert file.exists() == retained
    assert ("1 message in 1" in capsys.readouterr().out) == retained


def test_without_a_broker_the_local_one_is_proposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init(tmp_path / "n.yaml", "--broker", f"localhost:{free_port()}", *LABELS) == 1
    assert "mosquitto" in capsys.readouterr().err


def test_the_users_own_filter_stays(tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("building/hall/note The basin leaks again\n")
    file = tmp_path / "node.yaml"
    assert init(file, "--broker", "localhost", "--from", lines, "--topic", "building/+/note", *LABELS) == 0
    assert load_config(file).routes[0].source == "building/+/note"


def test_another_host_isnt_taken_for_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(tmp_path / "n.yaml", "--broker", "broker.invalid", "--listen", "1", *LABELS) == 1
    assert "mosquitto is installed" not in capsys.readouterr().err
