"""docs/operations/security.md: every threat has tests that exist, every command in it works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from edgeslm.cli import main
from edgeslm.config.loader import parse_config
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/operations/security.md").read_text("utf-8")
THREATS = re.findall(
    r"(?ms)^### (.+?)\n(.*?)(?=^##)", PAGE.partition("## Threats")[2].partition("## Texts on")[0] + "## "
)


def test_there_are_threats() -> None:
    assert len(THREATS) > 15


@pytest.mark.parametrize(("threat", "said"), THREATS, ids=[threat for threat, _ in THREATS])
def test_every_threat_says_what_is_left_and_is_shown_by_tests_that_exist(threat: str, said: str) -> None:
    assert re.search(r"^\*\*Residual risk\*\*: ", said, re.MULTILINE)
    shown = said.partition("**Tests**: ")[2]
    named = re.findall(r"`([\w/]*(?:\.py)?)::(test_\w+)`", shown)
    assert named, "no test shows its countermeasure"
    file = ""
    for path, name in named:
        file = path or file  # `::test_b` is in the file of the test before it
        texts = [path.read_text() for path in (ROOT / "tests").glob(f"*/**/{file}")]
        assert any(re.search(rf"^ *(async )?def {name}\(", text, re.MULTILINE) for text in texts), (
            f"there is no {file}::{name}"
        )


def commands(kind: str) -> list[list[str]]:
    (block,) = re.findall(rf"(?ms)^```sh {kind}\n(.*?)^```", PAGE)
    return [shlex.split(line) for line in block.replace("\\\n", "").splitlines()]


def test_the_commands_of_a_site_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (configuration,) = re.findall(r"(?ms)^```yaml\n(.*?)^```", PAGE)
    config = parse_config(configuration)
    Path("config.yaml").write_text(f"{configuration}state_dir: {tmp_path}\n")
    for program, *arguments in [*commands("site"), *commands("purge")]:
        assert program == "edgeslm"
        assert main.main(arguments) == 0
    assert capsys.readouterr().err == ""
    named = (
        config.broker.cert_file,
        config.broker.key_file,
        config.broker.client_id_file,
        config.broker.ca_file,
    )
    for file in named:
        assert file is not None
        assert (tmp_path / "site" / file.name).is_file(), f"{file.name} is made"
    access = (tmp_path / "site" / "access.acl").read_text()
    assert {line for line in access.splitlines() if line.startswith("user ")} == {
        "user press-hall-4",
        "user desk",
        "user panel",
    }


def test_the_command_of_an_app_is_understood() -> None:
    (arguments,) = commands("app")
    parsed = main._parser().parse_args(arguments[1:])
    assert (parsed.name, parsed.task) == ("desk", "triage")
