"""The examples for a shell: the functions of ask.sh, and the lines of mosquitto.sh."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeslm.protocol.codec import parse_result
from tests.support.brokers import Mosquitto
from tests.support.hall import BASE, EXAMPLES, Hall
from tests.support.small_nodes import SmallNode

SCRIPTS = ["ask.sh", "mosquitto.sh"]


def ask(hall: Hall, *arguments: str) -> subprocess.CompletedProcess[str]:
    return hall.run(["sh", EXAMPLES / "ask.sh", *arguments], url="127.0.0.1")


def hurried(tmp_path: Path, task: str) -> Path:
    """The script for another task, and with less patience."""
    script = (EXAMPLES / "ask.sh").read_text("utf-8")
    for written, meant in (("{2:-triage}", "{2:-" + task + "}"), ("in 5 10 20 30", "in 2 2 2")):
        assert script.count(written) == 1
        script = script.replace(written, meant)
    file = tmp_path / "ask.sh"
    file.write_text(script)
    return file


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert shellcheck is not None, "shellcheck is missing: pip install '.[dev]'"
    files = [EXAMPLES / name for name in SCRIPTS]
    done = subprocess.run([shellcheck, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("it is critical", "critical"),
        ("all is well", "normal"),
        ('{"it": "is critical"} \\ 100 % "sure" $HOME `id`', "critical"),
        ("two\nlines,\ta tab and Grüße: critical", "critical"),
    ],
)
def test_the_label_of_a_text(hall: Hall, text: str, label: str) -> None:
    done = ask(hall, text)
    assert (done.stdout, done.stderr, done.returncode) == (f"{label}\n", "", 0)


def test_the_text_arrives_as_it_is(hall: Hall) -> None:
    """The task ``say`` gives back what it reads; it is no label, so the function fails."""
    app = hall.app
    app.subscribe(f"{BASE}/res/say/#")
    assert ask(hall, 'a "quoted" \\ text', "say").returncode == 1
    assert app.take(f"{BASE}/res/say/#").json["result"]["text"] == 'a "quoted" \\ text'


def test_an_error_is_a_status_and_a_sentence(hall: Hall) -> None:
    done = ask(hall, "fail too_long")
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.startswith("the node says too_long: ")
    done = ask(hall, "a", "triag")
    assert (done.stdout, done.returncode) == ("", 1) and "unknown_task" in done.stderr
    done = ask(hall, "unsure", "strict")
    assert (done.stdout, done.returncode) == ("", 1) and "isn't sure" in done.stderr


@pytest.mark.parametrize(("task", "status", "deliveries"), [("silent", 2, 3), ("busy-once", 1, 2)])
def test_it_asks_again_until_there_is_an_answer(
    broker: Mosquitto, tmp_path: Path, task: str, status: int, deliveries: int
) -> None:
    """``busy-once`` answers with a text, which is no label, the second time."""
    with SmallNode(broker.url) as node:
        done = subprocess.run(
            ["sh", hurried(tmp_path, task), "a"],
            env={"PATH": os.environ["PATH"], "BROKER": "127.0.0.1", "PORT": f"{broker.port}", "NODE": "hall"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert len(node.deliveries) >= deliveries
        assert len({one.payload for one in node.deliveries}) == 1


def test_no_broker_is_a_status_too(hall: Hall, tmp_path: Path) -> None:
    script = hurried(tmp_path, "triage")
    hall.broker.stop()
    done = hall.run(["sh", script, "a"], url="127.0.0.1")
    assert done.returncode == 2 and "no answer from press-hall-4 at 127.0.0.1" in done.stderr


def test_the_functions_can_be_taken_into_a_script(hall: Hall) -> None:
    functions = (EXAMPLES / "ask.sh").read_text("utf-8").replace('edgeslm_label "$@"\n', "")
    program = functions + 'if label=$(edgeslm_label "critical"); then echo "<$label>"; fi'
    for shell in {"sh", "bash", "dash"} & {name for name in ("sh", "bash", "dash") if shutil.which(name)}:
        done = hall.run([shell, "-euc", program], url="127.0.0.1")
        assert (done.stdout, done.stderr) == ("<critical>\n", "")


def test_the_lines(hall: Hall) -> None:
    app = hall.app
    app.subscribe(f"{BASE}/res/triage")
    done = hall.run(["sh", "-e", EXAMPLES / "mosquitto.sh"], url="127.0.0.1")
    assert (done.stderr, done.returncode) == ("", 0)
    state, info, result = done.stdout.splitlines()
    assert '"online"' in state and '"tasks"' in info
    assert parse_result(result.encode()).unwrap()["label"] == "normal"
    assert app.take(f"{BASE}/res/triage").json["status"] == "ok"
