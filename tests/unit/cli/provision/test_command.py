"""commands/provision.py: what it prints, writes and refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from edgeslm.cli import main

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
    return main.main(["provision", *map(str, arguments)])


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
    assert text.startswith("# Topics of each client.")
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
        "why": "requests and messages of apps",
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


def test_site_needs_the_hub_s_keys_and_writes_what_both_brokers_need(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    arguments = ("site", folder, config, "--site", "plant-a", "--hub", "mqtts://hub.local", "--at", "/etc/x")
    assert run(*arguments) == 1
    assert "has no keys of a hub: make them with edgeslm provision keys" in capsys.readouterr().err
    assert not folder.exists()
    assert run("keys", folder, "--broker-host", "hub.local") == 0
    assert run(*arguments) == 0
    said = capsys.readouterr().out
    assert f"--include {folder}/site-plant-a.acl" in said
    made = {file.name: file.read_bytes() for file in folder.glob("site-plant-a*")}
    ends = (".acl", ".conf", ".id", ".key", ".pem", "-hub.pem")
    assert set(made) == {f"site-plant-a{end}" for end in ends}
    assert all(stat.S_IMODE((folder / name).stat().st_mode) == 0o600 for name in made)
    assert made["site-plant-a-hub.pem"] == (folder / "ca.pem").read_bytes()
    settings = made["site-plant-a.conf"].decode()
    assert "\nbridge_keyfile /etc/x/site-plant-a.key\n" in settings
    assert f"\nremote_clientid {made['site-plant-a.id'].decode()}" in settings

    assert run(*arguments) == 0, "nothing has changed"
    assert run(*arguments, "--up", "factory/+/label") == 1
    assert "site-plant-a.conf is there already; --force overwrites it" in capsys.readouterr().err
    assert run(*arguments, "--up", "factory/+/label", "--force") == 0
    again = {file.name: file.read_bytes() for file in folder.glob("site-plant-a*")}
    assert {name for name in made if made[name] != again[name]} == {"site-plant-a.conf", "site-plant-a.acl"}


def test_a_bridge_that_can_t_be_leaves_nothing(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    assert run("keys", folder, "--broker-host", "hub.local") == 0
    for wrong in (("--hub", "mqtt://hub"), ("--site", "Plant A"), ("--up", "#"), ("--per-s", "1e5")):
        assert run("site", folder, config, "--site", "a", "--hub", "mqtts://hub", *wrong) == 1
        assert capsys.readouterr().err.startswith("edgeslm: ")
    for wrong in (("--per-s", "0"), ("--hours", "nan"), ("--save-s", "1.5"), ("--message-bytes", "²")):
        with pytest.raises(SystemExit):
            run("site", folder, config, "--site", "a", "--hub", "mqtts://hub", *wrong)
    assert not list(folder.glob("site-*"))


def test_the_list_of_a_hub_takes_in_those_of_its_sites(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "hub"
    assert run("keys", folder, "--broker-host", "hub.local") == 0
    for site in ("north", "south"):
        assert run("site", folder, config, "--site", site, "--hub", "mqtts://hub.local") == 0
    lists = [part for site in ("north", "south") for part in ("--include", folder / f"site-{site}.acl")]
    capsys.readouterr()
    assert run("acl", "--app", "central:read=site/#", *lists) == 0
    said, _ = capsys.readouterr()
    users = [line for line in said.splitlines() if line.startswith("user ")]
    assert users == ["user central", "user site-north", "user site-south"]
    assert "# whether the site is connected\ntopic write site/south/link\n" in said
    assert run("acl", *lists, *lists[:2]) == 1
    assert "two clients are called 'site-north'" in capsys.readouterr().err
    assert run("acl") == 1
    assert "who may use the broker?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"pattern read #\n", "line 1 is none that edgeslm provision writes"),
        (b"user a b\n", "line 1 is none"),
        (b"topic read #\n", "line 1 is none"),
        (b"user ca\n", "can't be a client's name"),
        (b"user a\ntopic read a#\n", "line 2: the filter 'a#' has a #"),
        (b"\xff", "can't be read"),
        (None, "can't be read"),
    ],
)
def test_a_list_that_is_another_file_is_refused(
    tmp_path: Path, content: bytes | None, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.acl"
    if content is not None:
        file.write_bytes(content)
    assert run("acl", "--include", file) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("what", ["keys", "acl", "broker", "site"])
def test_every_part_has_help_with_an_example(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(what, "--help")
    assert f"example: edgeslm provision {what} " in capsys.readouterr().out
