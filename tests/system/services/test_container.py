"""The container file: a linter finds nothing, and what it and its compose file promise stands in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from edgeslm.cli.main import main
from edgeslm.config.loader import load_config
from tests.support.brokers import Mosquitto, free_port
from tests.support.paths import ROOT

FOLDER = ROOT / "firmware-config/container"
TEXT = (FOLDER / "Containerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each, continued lines put together."""
    lines = re.sub(r"\\\n *", "", re.sub(r"(?m)^ *#.*\n", "", TEXT)).splitlines()
    return [(name, arguments) for line in lines if line for name, _, arguments in [line.partition(" ")]]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert hadolint is not None, "hadolint is missing: pip install '.[dev]'"
    done = subprocess.run([hadolint, FOLDER / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_copies_what_is_there_and_all_that_is_built() -> None:
    copied = [
        source
        for name, arguments in instructions()
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    assert all((ROOT / source).exists() for source in copied), copied
    assert {"edgeslm", "export", "firmware-config", "pyproject.toml", "setup.py", "requirements"} <= set(
        copied
    )


def test_it_installs_the_lists_with_hashes_and_says_whose_work_is_in_it() -> None:
    """``pip install .`` took what was newest that day, and the client of a hub that no device uses."""
    runs = [" ".join(arguments.split()) for name, arguments in instructions() if name == "RUN"]
    installs = [part for run in runs for part in run.split(" && ") if " install " in part and "pip" in part]
    assert len(installs) == 3
    for one in installs:
        assert "--no-deps" in one and ("--require-hashes" in one or one.endswith("/wheel/*.whl")), one
    assert "for list in device $(printf 'device-%s ' $EXTRAS); do" in runs[1]
    assert '-r "requirements/$list.txt" || exit 1; done' in installs[0]
    (extras,) = [arguments for name, arguments in instructions() if arguments.startswith("EXTRAS=")]
    for extra in extras.removeprefix("EXTRAS=").strip('"').split():
        assert (ROOT / f"requirements/device-{extra}.txt").is_file(), extra
    assert any("scripts/third_party.py" in run for run in runs)


def test_it_runs_as_nobody_in_particular_and_asks_itself_how_it_is() -> None:
    last = dict(instructions())
    user, group = last["USER"].split(":")
    assert int(user) > 1000 and int(group) > 1000
    assert last["CMD"] == '["run", "/etc/edgeslm/edgeslm.yaml"]' and last["ENTRYPOINT"] == '["edgeslm"]'
    assert '["edgeslm", "check", "/etc/edgeslm/edgeslm.yaml", "--connect"]' in last["HEALTHCHECK"]
    assert "EXPOSE" not in last, "nothing listens"


def test_what_it_asks_tells_a_broker_that_is_away(broker: Mosquitto, tmp_path: Path) -> None:
    text = (FOLDER / "edgeslm.yaml").read_text()
    for port, status in ((broker.port, 0), (free_port(), 1)):
        (tmp_path / "edgeslm.yaml").write_text(text.replace("mqtt://broker", f"mqtt://127.0.0.1:{port}"))
        assert main(["check", str(tmp_path / "edgeslm.yaml"), "--connect"]) == status


def test_compose_gives_no_more_than_is_needed() -> None:
    for service in COMPOSE["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(service)
        named = [volume.split(":") for volume in service["volumes"]]
        assert all(volume[0] in COMPOSE["volumes"] or volume[-1] == "ro" for volume in named)
    build = COMPOSE["services"]["edgeslm"]["build"]
    context = FOLDER / build["context"]
    assert (context / build["dockerfile"]).resolve() == FOLDER / "Containerfile"


def test_its_configuration_and_its_broker_s_are_taken(tmp_path: Path) -> None:
    config = load_config(FOLDER / "edgeslm.yaml")
    assert (config.broker.host, config.state_dir) == ("broker", Path("/var/lib/edgeslm"))
    assert all(str(bundle).startswith("/srv/bundles/") for bundle in config.bundles.values())
    lines = (FOLDER / "mosquitto.conf").read_text().replace("/mosquitto/data/", f"{tmp_path}/")
    kept = [line for line in lines.splitlines() if not line.startswith(("listener", "allow_", "set_tcp"))]
    broker = Mosquitto(tmp_path, "\n".join(kept) + "\n")
    broker.start()
    broker.stop()
