"""Options for the broker, and their defaults from the environment."""

from __future__ import annotations

import argparse

import pytest

from edgeslm.cli.listening import add_broker_arguments


def broker(*arguments: str) -> str:
    parser = argparse.ArgumentParser()
    add_broker_arguments(parser)
    return str(parser.parse_args(arguments).broker)


def test_a_host_without_a_scheme_is_an_mqtt_address() -> None:
    assert broker("--broker", "broker.local:1884") == "mqtt://broker.local:1884"
    assert broker("--broker", "mqtts://broker.local") == "mqtts://broker.local"


def test_the_environment_names_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESLM_BROKER", "broker.local")
    assert broker() == "mqtt://broker.local"
    assert broker("--broker", "other") == "mqtt://other"


def test_without_either_the_broker_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EDGESLM_BROKER", raising=False)
    with pytest.raises(SystemExit):
        broker()
    assert "--broker" in capsys.readouterr().err
