"""docs/guides/sites.md: every command in it works, and what it says of topics is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edgeslm.cli import main
from edgeslm.cli.provision.bridge import HOURS, MESSAGE_BYTES, PER_S, RESTART_S, BridgeQueue, plan_bridge
from edgeslm.config.loader import parse_config
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/guides/sites.md").read_text("utf-8")
CONFIG = """\
node: hall
broker: {url: "mqtts://broker.local"}
models: {small: {bundle: /b}}
tasks: {triage: {kind: classify, model: small, labels: [normal, critical]}}
"""


def commands(kind: str) -> list[list[str]]:
    (block,) = re.findall(rf"(?ms)^```sh {kind}\n(.*?)^```", PAGE)
    return [shlex.split(line) for line in block.replace("\\\n", "").splitlines()]


def test_the_commands_of_a_hub_make_the_files_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    for program, *arguments in commands("sites"):
        assert program == "edgeslm"
        assert main.main(arguments) == 0
    assert capsys.readouterr().err == ""
    table = PAGE.partition("| file of `hub/` |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([\w.-]+)`", row.split("|")[1])}
    assert {file.name for file in Path("hub").iterdir()} - named == {
        *("ca.key", "central.key", "central.pem", "site-plant-a.id"),
    }
    assert named <= {file.name for file in Path("hub").iterdir()}


@pytest.mark.parametrize("kind", ["down", "top"])
def test_the_commands_of_who_looks_are_understood(kind: str) -> None:
    (arguments,) = commands(kind)
    parsed = main._parser().parse_args(arguments[1:])
    assert parsed.broker == "mqtts://hub.example.com"


def test_what_goes_up_is_what_the_table_says() -> None:
    (table,) = re.findall(r"(?ms)^\| at the site \|.*?\n\n", PAGE)
    bridge = plan_bridge("plant-a", "mqtts://hub", [parse_config(CONFIG)], results=True)
    for mapping in bridge.topics:
        if mapping.is_guard:
            continue
        below = mapping.filter.removeprefix("edgeslm/v1/").removeprefix("+/")
        topic = below.replace("pool/+/", "pool/<pool>/")
        (row,) = [row for row in table.splitlines() if re.search(rf"(?<!<pool>)[`/]{re.escape(topic)}`", row)]
        assert row.split("|")[3].strip().startswith(str(mapping.qos)), row


def test_its_figures_are_the_code_s() -> None:
    queue = f"{BridgeQueue().messages:,} messages of {MESSAGE_BYTES // 1024} KiB: "
    assert f"{queue}{PER_S:g} message a second for {HOURS:g} hours" in " ".join(PAGE.split())
    assert f"after {RESTART_S[0]} to {RESTART_S[1]} s" in PAGE
