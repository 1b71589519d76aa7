"""The add-on for Home Assistant: its files by the rules of Supervisor, and its start with a fake Supervisor.

The rules are those of ``supervisor/apps/validate.py``, ``options.py`` and ``store/validate.py`` (Supervisor
2026.08), as far as this add-on uses them; Supervisor itself is in no package index.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeslm import __version__
from edgeslm.cli.main import main
from edgeslm.config.json_schemas import make_validator
from tests.support.paths import ROOT
from tests.support.supervisor import BROKER, Supervisor, running_supervisor

FOLDER = ROOT / "firmware-config/home-assistant/addon"
ADDON = FOLDER / "edgeslm"
CONFIG: dict[str, Any] = yaml.safe_load((ADDON / "config.yaml").read_text())
OPTION = r"^(bool|email|url|port|(str|password|int|float)(\([-\d.]*,[-\d.]*\))?|match\(.*\)|list\(.+\))\??$"
VOLUMES = "data|ssl|local_apps|backup|share|media|homeassistant_config|all_app_configs|app_config"
CONFIG_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "slug": {"type": "string", "pattern": r"^[-_.A-Za-z0-9]+$"},
        "description": {"type": "string"},
        "arch": {"type": "array", "items": {"enum": ["aarch64", "amd64"]}},
        "startup": {"enum": ["initialize", "system", "services", "application", "once"]},
        "timeout": {"type": "integer", "minimum": 10, "maximum": 300},
        "services": {"type": "array", "items": {"pattern": "^(mqtt|mysql):(provide|want|need)$"}},
        "map": {"type": "array", "items": {"type": "string", "pattern": f"^({VOLUMES})(:(rw|ro))?$"}},
        "ingress": {"type": "boolean"},
        "ingress_port": {"type": "integer", "minimum": 0, "maximum": 65535},
        "panel_icon": {"type": "string"},
        "watchdog": {"type": "string", "pattern": r"^(https?|tcp)://\[HOST\]:(\[PORT:\d+\]|\d+).*$"},
        "backup_exclude": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "schema": {"type": "object", "additionalProperties": {"type": "string", "pattern": OPTION}},
    },
    "required": ["name", "version", "slug", "description", "arch"],
    "additionalProperties": False,  # Supervisor drops other keys
}


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setenv("SUPERVISOR_TOKEN", "token-of-the-add-on")
    with running_supervisor() as fake:
        yield fake


@pytest.fixture
def prepare(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """The start script's, with the add-on's folders in ``tmp_path``, and short pauses."""
    script = runpy.run_path(str(ADDON / "start.py"))
    function = script["prepare"]
    monkeypatch.setitem(function.__globals__, "PAUSE_S", 0.01)
    for name in ("data", "config"):
        (tmp_path / name).mkdir()
    (tmp_path / "data/options.json").write_text(json.dumps(CONFIG["options"]))

    def prepare(wait_s: float = 0.0) -> dict[str, str]:
        variables: dict[str, str] = function(tmp_path / "data", tmp_path / "config", supervisor.url, wait_s)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return prepare


# The files


def test_supervisor_takes_the_configuration() -> None:
    assert [error.message for error in make_validator(CONFIG_SCHEMA).iter_errors(CONFIG)] == []
    assert CONFIG["version"] == __version__
    assert f"## {__version__}" in (ADDON / "CHANGELOG.md").read_text()
    repository = yaml.safe_load((FOLDER / "repository.yaml").read_text())
    assert set(repository) <= {"name", "url", "maintainer"} and repository["name"]
    assert (ADDON / "icon.png").read_bytes().startswith(b"\x89PNG")


def test_each_option_has_a_default_and_a_text() -> None:
    texts = yaml.safe_load((ADDON / "translations/en.yaml").read_text())["configuration"]
    assert set(texts) == set(CONFIG["schema"]) == set(CONFIG["options"])
    assert all(set(text) == {"name", "description"} for text in texts.values())
    allowed = CONFIG["schema"]["log_level"].removeprefix("list(").removesuffix(")").split("|")
    assert CONFIG["options"]["log_level"] in allowed


def test_the_ports_are_those_of_the_node() -> None:
    node = yaml.safe_load((ADDON / "edgeslm.yaml").read_text())
    assert node["console"]["listen"] == f"0.0.0.0:{CONFIG['ingress_port']}"
    assert CONFIG["watchdog"].endswith(node["api"]["listen"].removeprefix("0.0.0.0"))
    assert node["console"]["ingress"] is True and node["console"]["peers"] == ["172.30.32.2"]
    assert "ports" not in CONFIG and "host_network" not in CONFIG, "nothing is open to the network"


def test_the_script_writes_what_supervisor_builds(tmp_path: Path) -> None:
    def write(out: Path) -> int:
        command = [ROOT / "scripts/home-assistant-addon", out]
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    out = tmp_path / "addons"
    assert write(out) == 0
    assert list(out.glob("**/config.*")) == [out / "edgeslm/config.yaml"], (
        "Supervisor takes each for an add-on"
    )
    dockerfile = (out / "edgeslm/Dockerfile").read_text()
    copied = re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", dockerfile)
    assert [name for line in copied for name in line.split() if not (out / "edgeslm" / name).exists()] == []
    stages = re.findall(r"(?m)^FROM (\S+)(?: AS (\S+))?", dockerfile)
    assert stages[-1][0] == stages[-2][1] == "edgeslm"
    extras = re.findall(r'(?m)^ARG EXTRAS="(.*)"', dockerfile)
    assert extras == ["api documents heads"], "its configuration has the section teach"
    assert all((out / f"edgeslm/requirements/device-{extra}.txt").exists() for extra in extras[0].split())
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint is missing: pip install '.[dev]'"
    done = subprocess.run([hadolint, out / "edgeslm/Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert write(out) == 1, "it overwrites nothing"


# The start


def test_the_written_configuration_passes_check(
    prepare: Callable[..., dict[str, str]],
    supervisor: Supervisor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    variables = prepare()
    assert supervisor.asked == [("/services/mqtt", "Bearer token-of-the-add-on")]
    assert variables["EDGESLM_BROKER_URL"] == "mqtt://core-mosquitto:1883"
    assert variables["EDGESLM_LOG_LEVEL"] == "info"
    assert (tmp_path / "data/state/mqtt-password").read_text() == "secret\n"
    assert re.fullmatch(r"home-assistant \S{30,}\n", (tmp_path / "config/api-tokens").read_text())
    assert main(["check", str(tmp_path / "config/edgeslm.yaml")]) == 0, capsys.readouterr().err


def test_a_second_start_keeps_what_users_wrote(
    prepare: Callable[..., dict[str, str]], supervisor: Supervisor, tmp_path: Path
) -> None:
    supervisor.replies = [(200, {"data": {**BROKER, "ssl": True, "port": 8883}})]
    prepare()
    file, tokens = tmp_path / "config/edgeslm.yaml", tmp_path / "config/api-tokens"
    file.write_text(file.read_text().replace("node: home", "node: house"))
    tokens.write_text("mine 0123456789abcdef\n")
    assert prepare()["EDGESLM_BROKER_URL"] == "mqtts://core-mosquitto:8883"
    assert "node: house" in file.read_text() and tokens.read_text().startswith("mine")


def test_another_broker_needs_no_supervisor(
    prepare: Callable[..., dict[str, str]], supervisor: Supervisor, tmp_path: Path
) -> None:
    (tmp_path / "config/edgeslm.yaml").write_text("node: home\nbroker: {url: mqtts://broker.local}\n")
    assert "EDGESLM_BROKER_URL" not in prepare()
    assert supervisor.asked == []


def test_it_waits_for_the_broker(prepare: Callable[..., dict[str, str]], supervisor: Supervisor) -> None:
    away = (400, {"result": "error", "message": "Service not enabled"})
    supervisor.replies = [away, (502, b"<html>"), (200, {"data": BROKER})]
    assert prepare(wait_s=30.0)["EDGESLM_BROKER_USERNAME"] == "addons"
    assert len(supervisor.asked) == 3


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (
            (400, {"result": "error", "message": "Service not enabled"}),
            r"no MQTT broker \(Service not enabled\)",
        ),
        ((403, b"no JSON"), r"no MQTT broker \(HTTP status 403\)"),
        ((403, ["x"]), r"no MQTT broker \(HTTP status 403\)"),
        ((200, b"<html>"), "doesn't tell the broker's host"),
        ((200, {"data": {"host": "h"}}), "doesn't tell the broker's host"),
        ((200, {"data": None}), "doesn't tell the broker's host"),
        ((200, []), "doesn't tell the broker's host"),
    ],
)
def test_why_it_cant_start(
    prepare: Callable[..., dict[str, str]], supervisor: Supervisor, reply: tuple[int, Any], sentence: str
) -> None:
    supervisor.replies = [reply]
    with pytest.raises(ValueError, match=sentence):
        prepare()


def test_the_node_s_user_gets_what_the_node_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = runpy.run_path(str(ADDON / "start.py"))
    (tmp_path / "state/prepared").mkdir(parents=True)
    for name in ("state/journal", "state/prepared/weights", "edgeslm.yaml", "other"):
        (tmp_path / name).touch()
    given = {}
    monkeypatch.setattr(
        os, "lchown", lambda path, *owner: given.update({str(path.relative_to(tmp_path)): owner})
    )
    script["hand_over"](tmp_path / "state", tmp_path / "edgeslm.yaml")
    wanted = {"state", "state/prepared", "state/journal", "state/prepared/weights", "edgeslm.yaml"}
    assert given == dict.fromkeys(wanted, (script["USER"], script["USER"]))
    user = re.search(
        r"(?m)^USER (\d+):(\d+)$", (ROOT / "firmware-config/container/Containerfile").read_text()
    )
    assert user is not None and {int(one) for one in user.groups()} == {script["USER"]}
