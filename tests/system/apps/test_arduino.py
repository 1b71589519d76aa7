"""The sketch for an ESP32, compiled with g++ and run on this machine.

The Arduino core and PubSubClient are in no package index that tests may use, so ``arduino/`` has stand-ins:
the part of the core that the sketch uses, WiFiClient on a POSIX socket, and a class with the documented
interface of PubSubClient 2.8 that speaks MQTT 3.1.1. This shows that the sketch compiles, and that its part
of the protocol works with a real broker and a real node; not that it fits into a board, and nothing of WiFi.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.client.test_client import wait_for
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.hall import EXAMPLES, Hall
from tests.support.small_nodes import SmallNode

SKETCH = EXAMPLES / "ask_esp32" / "ask_esp32.ino"
STAND_INS = Path(__file__).parent / "arduino"


class Board:
    """The sketch at work: type into it, read what it says."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")

    def read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        self.type(line)
        return self.read()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=WAIT_S)


@contextmanager
def board(folder: Path, port: int, **changes: str) -> Iterator[Board]:
    """``changes`` of constants: their C++ values."""
    compiler = shutil.which("g++")
    assert compiler is not None, "g++ is missing; run scripts/setup test"
    sketch = SKETCH.read_text("utf-8")
    for name, value in {"BROKER": '"127.0.0.1"', "PORT": f"{port}", **changes}.items():
        before, _, rest = sketch.partition(f" {name} = ")
        assert rest, f"the sketch has no constant {name}"
        sketch = f"{before} {name} = {value}{rest[len(re.split('[,;]', rest)[0]) :]}"
    file = folder / "sketch.ino"
    file.write_text(sketch)
    options = ["-std=c++17", "-Wall", "-Werror", f"-I{STAND_INS}", f'-DSKETCH="{file}"']
    subprocess.run([compiler, *options, STAND_INS / "host.cpp", "-o", folder / "board"], check=True)
    board = Board(folder / "board")
    try:
        yield board
    finally:
        board.stop()


def test_labels_and_errors(hall: Hall, tmp_path: Path) -> None:
    with board(tmp_path, hall.broker.port) as panel:
        assert panel.ask("it is critical") == "label critical"
        assert panel.ask('a "quoted" \\ text: Grüße') == "label normal"
        assert panel.ask("fail too_long") == "error too_long"
        assert panel.ask("x" * 500) == "label normal"


def test_a_board_that_starts_again_gets_no_answer_of_yesterday(hall: Hall, tmp_path: Path) -> None:
    """Its first request after each start has the number 1; the node remembers that of the start before."""
    for text, label in (("it is critical", "critical"), ("all is well", "normal")):
        with board(tmp_path, hall.broker.port) as panel:
            assert panel.ask(text) == f"label {label}"


def test_it_is_sent_again_until_there_is_an_answer(broker: Mosquitto, tmp_path: Path) -> None:
    """``busy-once`` is busy first; what comes then is no label, so the board goes on."""
    changes = {"NODE": '"hall"', "FIRST_REPEAT_MS": "300", "TASK": '"busy-once"'}
    with SmallNode(broker.url) as node, board(tmp_path, broker.port, **changes) as panel:
        panel.type("a")
        wait_for(lambda: len(node.deliveries) >= 3)
        assert len({one.payload for one in node.deliveries}) == 1


def test_another_question_has_to_wait(broker: Mosquitto, tmp_path: Path) -> None:
    changes = {"NODE": '"hall"', "GIVE_UP_MS": "2000", "TASK": '"silent"'}
    with SmallNode(broker.url), board(tmp_path, broker.port, **changes) as panel:
        panel.type("a")
        assert panel.ask("b") == "wait for the answer, or send less text"
        assert panel.read() == "error timeout"


def test_it_outlives_the_broker(make_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = make_broker(folder=tmp_path)
    changes = {"NODE": '"hall"', "RECONNECT_MS": "300", "TASK": '"triage"'}
    with SmallNode(broker.url) as node, board(tmp_path, broker.port, **changes) as panel:
        assert panel.ask("a") == "label critical"
        broker.stop()
        panel.type("b")
        assert panel.read().startswith("no broker: state ")
        broker.start()
        while (said := panel.read()).startswith("no broker"):
            pass
        assert said == "label critical"
        wait_for(lambda: len(node.deliveries) >= 2)


def test_a_login_that_is_wrong_is_said(make_broker: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = make_broker(anonymous=False)
    with board(tmp_path, broker.port, USER='"panel"', PASSWORD='"secret"') as panel:
        assert panel.read() == "no broker: state 5"


def test_two_boards_with_names_of_their_own(hall: Hall, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with (
        board(folders[0], hall.broker.port, BOARD='"panel-1"') as one,
        board(folders[1], hall.broker.port, BOARD='"panel-2"') as other,
    ):
        assert one.ask("it is critical") == other.ask("so critical") == "label critical"
