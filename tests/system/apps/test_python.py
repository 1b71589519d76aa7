"""The examples in Python, in an environment that has paho-mqtt and edgeslm and nothing that a node needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.integration.repository.test_wheel import build_wheel
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.hall import BASE, EXAMPLES, Hall
from tests.support.paths import ROOT
from tests.support.small_nodes import SmallNode

DOCUMENTED = "pip install .\n"
"""In ask.py and docs/guides/apps.md. The wheel that it would build is installed here."""


def wheel_of(distribution: str, folder: Path) -> None:
    """An installed package of pure Python as the wheel that it came in: no index is needed."""
    found = metadata.distribution(distribution)
    name = distribution.replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{found.version}-py3-none-any.whl", "w") as wheel:
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                wheel.write(str(file.locate()), str(file))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment made as the documents say, from wheels of what is here."""
    folder = tmp_path_factory.mktemp("alone")
    wheels = folder / "wheels"
    wheels.mkdir()
    shutil.copy(build_wheel(folder), wheels)
    wheel_of("paho-mqtt", wheels)
    venv.create(folder / "venv", with_pip=False)
    there = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "--python", there, "install", "edgeslm", "--no-index", "--find-links", wheels],
        check=True,
        cwd=folder,  # or pip finds the checkout
    )
    return there


def run_alone(python: Path, hall: Hall, file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return hall.run([python, "-W", "error", EXAMPLES / file, *arguments])


def test_nothing_else_is_there(python: Path) -> None:
    program = "from importlib import metadata; print(*sorted(one.name for one in metadata.distributions()))"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["edgeslm", "paho-mqtt"]
    assert DOCUMENTED in (EXAMPLES / "ask.py").read_text("utf-8")
    assert DOCUMENTED in (ROOT / "docs/guides/apps.md").read_text("utf-8")


def test_the_command_is_of_use_there_too(python: Path, hall: Hall) -> None:
    words = ["request", "triage", "critical", "--broker", hall.broker.url, "--node", "press-hall-4"]
    done = hall.run([python, "-I", "-m", "edgeslm", *words])
    assert '"label":"critical"' in done.stdout.replace(" ", ""), done.stderr


def test_ask_prints_the_label(python: Path, hall: Hall) -> None:
    done = run_alone(python, hall, "ask.py", "it is critical")
    assert (done.stdout, done.stderr, done.returncode) == ("critical\n", "", 0)
    assert run_alone(python, hall, "ask.py", "as ever").stdout == "normal\n"


def test_ask_says_what_is_wrong(python: Path, hall: Hall) -> None:
    done = run_alone(python, hall, "ask.py", "fail too_long")
    assert (done.stdout, done.returncode) == ("", 1) and done.stderr.startswith("too_long: ")
    done = run_alone(python, hall, "ask.py", " ")
    assert (done.stdout, done.returncode) == ("", 1) and done.stderr.startswith("invalid_request: ")
    done = hall.run([python, EXAMPLES / "ask.py", "a"], url="mqtt://127.0.0.1:1")
    assert (done.stdout, done.returncode) == ("", 3) and "Nothing listens" in done.stderr


def test_several_at_a_time_and_an_answer_in_pieces(python: Path, hall: Hall) -> None:
    done = run_alone(python, hall, "ask_async.py", "a critical noise", "all is well")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == [
        "critical: a critical noise",
        "normal: all is well",
        "In one sentence: a critical noise; all is well",
        "In one sentence: a critical noise; all is well",
    ]
    done = run_alone(python, hall, "ask_async.py", " ")
    assert done.returncode == 1 and "input is empty" in done.stderr


def test_listening(python: Path, hall: Hall) -> None:
    listener = subprocess.Popen(
        [python, "-W", "error", EXAMPLES / "listen.py"],
        env=hall.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "the node is online\n"
        hall.app.publish(f"{BASE}/event/other", b"no result")
        hall.app.publish("factory/4/log", b"it is critical")
        line = listener.stdout.readline()
        assert line.startswith("notes: {'label': 'critical', ")
        hall.app.publish("factory/4/log", b"fail too_long")
        assert listener.stdout.readline() == "notes: too_long\n"
    finally:
        listener.terminate()
        listener.communicate(timeout=WAIT_S)


def test_a_time_out_has_a_status_of_its_own(python: Path, broker: Mosquitto, tmp_path: Path) -> None:
    script = (EXAMPLES / "ask.py").read_text("utf-8")
    for written, meant in (('"triage"', '"silent"'), ("timeout=60", "timeout=0.5")):
        assert script.count(written) == 1
        script = script.replace(written, meant)
    with SmallNode(broker.url):
        done = subprocess.run(
            [python, "-c", script, "a"],
            env={"BROKER": broker.url, "NODE": "hall"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 2 and "No result came within 0.5 s" in done.stderr
