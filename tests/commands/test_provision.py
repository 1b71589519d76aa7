"""commands/provision.py: what it prints, writes and refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from edgeslm import cli

CONFIG = """\
node: hall
broker: {url: "mqtts://broker.local"}
models: {small: {bundle: /b}}
tasks: {triage: {kind: classify, model: small, labels: [a, b]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG)
    return file


def run(*arguments: object) -> int:
    return cli.main(["provision", *map(str, arguments)])


def test_keys_says_what_is_made_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "site"
    assert run("keys", folder, "--broker-host", "broker.local", "--node", "hall") == 0
    said = capsys.readouterr().out
    assert f"made     {folder}/hall.pem (until " in said
    assert f"Keep {folder}/ca.key off the broker" in said
    assert run("keys", folder, "--node", "hall", "--app", "desk", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["what"]) for one in made] == [
        ("ca", "kept"),
        ("hall", "kept"),
        ("desk", "made"),
    ]
    assert run("keys", folder, "--renew") == 0
    assert "kept" in capsys.readouterr().out


def test_a_node_name_that_cannot_be_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keys", tmp_path / "site", "--node", "Hall 4") == 1
    assert (
        capsys.readouterr().err == "edgeslm: --node Hall 4: may hold a-z, 0-9 and - only, 1 to 64 of them\n"
    )
    assert not (tmp_path / "site").exists()


def test_acl_prints_or_writes_and_never_writes_over(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("acl", config, "--app", "desk:triage") == 0
    text = capsys.readouterr().out
    assert text.startswith("# Who may use which topics.")
    assert "\nuser desk\n" in text
    out = tmp_path / "access.acl"
    assert run("acl", config, "--app", "desk:triage", "--out", out) == 0
    assert out.read_text() == text
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert run("acl", config, "--out", out) == 1
    assert "is there already; --force" in capsys.readouterr().err
    assert run("acl", config, "--out", out, "--force") == 0
    assert "user desk" not in out.read_text()
    capsys.readouterr()
    assert run("acl", config, "--json") == 0
    assert json.loads(capsys.readouterr().out)["hall"][0] == {
        "access": "read",
        "filter": "edgeslm/v1/hall/req/+",
        "why": "what apps tell it",
    }


def test_a_grant_that_reaches_every_node_is_warned_of(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("acl", config, "--app", "root:write=#") == 0
    assert "warning: root may write # (given)" in capsys.readouterr().err


def test_broker_writes_its_configuration_beside_the_keys(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "site"
    assert run("broker", folder, config, "--at", "/etc/mosquitto/site", "--profile", "balanced") == 0
    settings = (folder / "mosquitto.conf").read_text()
    assert "acl_file /etc/mosquitto/site/access.acl\n" in settings
    assert "autosave_on_changes false\n" in settings
    assert (folder / "access.acl").read_text().count("user hall") == 1
    assert run("broker", folder, config) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["keys", "acl", "broker"])
def test_every_part_has_help_with_an_example(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(what, "--help")
    assert f"example: edgeslm provision {what} " in capsys.readouterr().out
