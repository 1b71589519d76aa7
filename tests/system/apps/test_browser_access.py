"""The examples at a broker that lets each app do only what ``edgeslm provision acl`` gave it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeslm.cli.provision.access import app_user, node_user, render
from edgeslm.config.loader import load_config
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.hall import BASE, EXAMPLES, NAME
from tests.support.nodes import Node, fake_configuration, write_configuration
from tests.support.paths import python_path
from tests.system.apps.test_arduino import board
from tests.system.apps.test_javascript import folder as folder
from tests.system.apps.test_javascript import mqtt_js as mqtt_js

APPS = ("desk:triage,say,cancel=press-hall-4", "watch:read=edgeslm/#")
PASSWORD = "no secret"


@pytest.fixture
def broker(make_broker: Callable[..., Mosquitto], tmp_path: Path) -> Iterator[Mosquitto]:
    """One with a node, and an app ``desk`` that may ask it."""
    access, passwords = tmp_path / "acl", tmp_path / "passwords"
    passwords.touch(0o600)
    for user in (NAME, "desk", "watch"):
        command = ["mosquitto_passwd", "-b", str(passwords), user, PASSWORD]
        subprocess.run(command, check=True, capture_output=True)
    access.touch(0o600)
    broker = make_broker(f"acl_file {access}\npassword_file {passwords}\n", anonymous=False)
    (tmp_path / "password").write_text(PASSWORD)
    login = {"url": broker.url, "username": NAME, "password_file": str(tmp_path / "password")}
    configuration = fake_configuration(broker.url, tmp_path, node=NAME, broker=login)
    config = load_config(write_configuration(tmp_path, configuration))
    access.write_text(render([node_user(config), *(app_user(text, [config]) for text in APPS)]))
    broker.stop()
    broker.start()
    with (
        App(broker.port, f"{BASE}/state", username="watch", password=PASSWORD) as app,
        Node(tmp_path, configuration),
    ):
        app.take_state(BASE, "online")
        yield broker


def run(
    broker: Mosquitto, home: Path, *command: str | Path, login: str = "desk"
) -> subprocess.CompletedProcess[str]:
    folder = home / ".config"
    folder.mkdir(exist_ok=True)
    (folder / "mosquitto_rr").write_text(f"--username desk\n--pw {PASSWORD}\n")
    url = broker.url.replace("//", f"//desk:{PASSWORD.replace(' ', '%20')}@")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": python_path(),
        "PORT": f"{broker.port}",
        "NODE": NAME,
        "LOGIN": login,
        "BROKER": "127.0.0.1" if command[0] == "sh" else url,
    }
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S)


def test_each_example_may_do_what_it_does(broker: Mosquitto, folder: Path, tmp_path: Path) -> None:
    text = "it is critical"
    programs: tuple[tuple[str | Path, Path], ...] = (
        (sys.executable, EXAMPLES / "ask.py"),
        ("sh", EXAMPLES / "ask.sh"),
        (folder / "node", folder / "ask.mjs"),
    )
    for program in programs:
        done = run(broker, tmp_path, *program, text)
        assert (done.stdout, done.stderr, done.returncode) == ("critical\n", "", 0)
    done = run(broker, tmp_path, sys.executable, EXAMPLES / "ask_async.py", text)
    assert done.stdout.startswith(f"critical: {text}\n") and not done.stderr
    place = tmp_path / "board"
    place.mkdir()
    login = {"USER": '"desk"', "PASSWORD": f'"{PASSWORD}"', "BOARD": '"desk"'}
    with board(place, broker.port, **login) as panel:
        assert panel.ask(text) == "label critical"


def test_with_another_name_nothing_comes(broker: Mosquitto, tmp_path: Path) -> None:
    """mosquitto grants the subscription, and hands nothing on: docs/guides/apps.md says so."""
    script = (EXAMPLES / "ask.py").read_text("utf-8")
    assert script.count("timeout=60") == 1
    hurried = tmp_path / "ask.py"
    hurried.write_text(script.replace("timeout=60", "timeout=1"))
    assert run(broker, tmp_path, sys.executable, hurried, "a", login="watch").returncode == 2
    assert run(broker, tmp_path, sys.executable, hurried, "critical").returncode == 0
