"""The demo's own broker."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import pytest

from edgeslm.cli.demo.broker import free_port, start_broker
from edgeslm.errors import BrokerError
from tests.support.apps import App


def test_it_runs_on_a_free_port_of_this_machine_and_ends(tmp_path: Path) -> None:
    with start_broker(tmp_path) as broker:
        assert (broker.name, broker.keeps_messages) == ("mosquitto", True)
        assert broker.url == f"mqtt://127.0.0.1:{broker.port}"
        with App(broker.port, "a/#") as app:
            app.publish("a/b", "x")
            assert app.take("a/b").payload == b"x"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", broker.port)) != 0


def test_without_a_broker_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "amqtt", None)
    how = r"apt-get install mosquitto, or pip install '\.\[demo-broker\]' in a clone"
    with pytest.raises(BrokerError, match=how), start_broker(tmp_path):
        pass


def test_a_broker_that_does_not_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\necho first >&2\necho Error: no such thing >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said = "the broker did not start: Error: no such thing"
    with pytest.raises(BrokerError, match=said), start_broker(tmp_path):
        pass


def test_free_ports_are_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
