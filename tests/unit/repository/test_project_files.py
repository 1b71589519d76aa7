"""What people find around the code: changelog, versions, templates, devcontainer."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
VERSION = PROJECT["version"]


def test_the_changelog_is_one() -> None:
    """https://keepachangelog.com: unreleased changes first, then the version that this is."""
    sections = re.findall(r"(?m)^## (.*)$", CHANGELOG)
    assert sections[0] == "[Unreleased]"
    assert [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", one) is not None for one in sections[1:]]
    assert sections[1].startswith(f"[{VERSION}] - ")
    kinds = set(re.findall(r"(?m)^### (\w+)", CHANGELOG))
    assert kinds <= {"Upgrading", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_each_change_is_a_line() -> None:
    assert [line for line in CHANGELOG.splitlines() if len(line) > 150] == []
    assert not re.search(r"(?m)^  \S", CHANGELOG), "an entry of two lines"


def test_the_licence_is_told_once_for_all_files() -> None:
    """By the package's metadata and LICENSE, as most Python projects do: no header in each file."""
    (file,) = PROJECT["license-files"]
    assert (ROOT / file).read_text("utf-8").split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert PROJECT["license"] == "Apache-2.0"
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["license"] == PROJECT["license"]


def test_who_cites_it_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == VERSION
    assert f"## [{VERSION}] - {citation['date-released']}" in CHANGELOG
    assert f"| {VERSION.rpartition('.')[0]} | yes |" in (ROOT / "SECURITY.md").read_text("utf-8")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.stem
)
def test_forms_of_issues_are_forms(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.stem != "config":
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(set(ids)) == len(ids)


def test_who_reports_a_bug_is_asked_for_what_finds_it() -> None:
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text("utf-8"))
    asked = {field.get("id"): field for field in form["body"]}
    for name in ("version", "board", "doctor"):
        assert asked[name]["validations"]["required"]
    assert "edgeslm doctor" in asked["doctor"]["attributes"]["label"]
    assert "config" in asked


def test_the_devcontainer_sets_up_by_the_script() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf-8"))
    assert container["image"].startswith("mcr.microsoft.com/devcontainers/base:")
    assert "scripts/setup test" in container["postCreateCommand"]
    assert "mosquitto" in container["onCreateCommand"]
