"""provision/tokens.py: clients of the HTTP API get tokens, and no more than they were given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgeslm.api.tokens import parse_tokens
from edgeslm.cli import main
from edgeslm.cli.provision.access import node_user
from edgeslm.config.loader import parse_config

CONFIG = """\
node: hall
broker: {url: "mqtts://broker.local"}
models: {small: {bundle: /b}}
tasks: {triage: {kind: classify, model: small, labels: [a, b]}, gist: {kind: summarize, model: small}}
"""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    return tmp_path / "new" / "api-tokens"


@pytest.fixture
def config(tmp_path: Path, tokens: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(f"{CONFIG}api: {{tokens: {tokens}}}\n")
    return file


def run(config: Path, *arguments: object) -> int:
    return main.main(["provision", "tokens", str(config), *map(str, arguments)])


def test_clients_get_lines_and_others_keep_theirs(
    config: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "--client", "desk:triage,model:small,triage", "--client", "panel") == 0
    said = capsys.readouterr().out
    assert said.startswith("desk may use triage, model:small\npanel may use all tasks and models\n")
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600
    desk, panel = parse_tokens(tokens.read_text(), "f")
    assert (desk.name, desk.tasks) == ("desk", ("triage", "model:small"))
    assert (panel.name, panel.tasks) == ("panel", None)
    assert not any(line.split()[1] in said for line in tokens.read_text().splitlines())
    tokens.write_text("# ours\n\n" + tokens.read_text())
    before = tokens.read_text()
    assert run(config, "--client", "app:gist") == 0
    assert tokens.read_text().startswith(before)
    assert [one.name for one in parse_tokens(tokens.read_text(), "f")] == ["desk", "panel", "app"]


def test_a_client_s_token_is_replaced_only_by_force(
    config: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "--client", "desk", "--client", "panel") == 0
    desk, panel = tokens.read_text().splitlines()
    assert run(config, "--client", "desk:gist") == 1
    assert "has a token of desk already; --force makes a new one" in capsys.readouterr().err
    assert tokens.read_text().splitlines() == [desk, panel]
    assert run(config, "--client", "desk:gist", "--force") == 0
    kept, new = tokens.read_text().splitlines()
    assert kept == panel
    assert new.endswith(" tasks=gist") and new.split()[1] != desk.split()[1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--client", "desk:triag"), "the node has no task 'triag'; there is triage"),
        (("--client", "desk:model:smal"), "no task 'model:smal'; there is model:small"),
        (("--client", "desk:"), "names no task; without the colon, all are allowed"),
        (("--client", "desk:*"), "no task '*'; there is triage, gist, model:small"),
        (("--client", "two words:triage"), "a client's name may have up to 64 letters"),
        (("--client", "anonymous"), "isn't anonymous"),
        (("--client", "#desk"), "--client #desk: a client's name may"),
        (("--client", ""), "begins with a letter or digit"),
        (("--client", "desk", "--client", "desk:gist"), "two clients have the same name"),
    ],
)
def test_what_is_refused(
    config: Path, tokens: Path, arguments: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, *arguments) == 1
    assert part in capsys.readouterr().err
    assert not tokens.exists()


def test_a_node_without_an_api_and_a_wrong_file(
    config: Path, tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens.parent.mkdir()
    tokens.write_text("desk short\n")
    assert run(config, "--client", "panel") == 1
    assert "line 1: the token needs 16 characters" in capsys.readouterr().err
    tokens.write_bytes(b"\xff\xfe")
    assert run(config, "--client", "panel") == 1
    assert "can't be read" in capsys.readouterr().err
    config.write_text(CONFIG)
    assert run(config, "--client", "panel") == 1
    assert "has no section api" in capsys.readouterr().err
    config.write_text(f"{CONFIG}api: {{models: false}}\n")
    assert run(config, "--client", "panel:model:small") == 1
    assert "no task 'model:small'" in capsys.readouterr().err


def test_the_default_file_and_another_one(tmp_path: Path, config: Path) -> None:
    config.write_text(f"{CONFIG}api: {{}}\nstate_dir: {tmp_path}/state\n")
    assert run(config, "--client", "desk") == 0
    assert (tmp_path / "state/api-tokens").is_file()
    assert run(config, "--client", "desk", "--out", tmp_path / "other") == 0
    assert parse_tokens((tmp_path / "other").read_text(), "f")[0].name == "desk"


def test_a_link_and_the_rights_of_its_group_stay(tmp_path: Path, config: Path, tokens: Path) -> None:
    real = tmp_path / "real"
    real.write_text("")
    real.chmod(0o644)
    tokens.parent.mkdir()
    tokens.symlink_to(real)
    if os.geteuid() == 0:
        os.chown(real, 1234, 2345)
    assert run(config, "--client", "desk") == 0
    assert tokens.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    if os.geteuid() == 0:
        assert (real.stat().st_uid, real.stat().st_gid) == (1234, 2345)


def test_the_api_needs_no_topic_at_the_broker() -> None:
    """What comes over HTTP isn't in the access list that ``provision acl`` makes."""
    plain = node_user(parse_config(CONFIG))
    assert node_user(parse_config(f"{CONFIG}api: {{mcp: true}}\n")) == plain
