"""What is installed and nothing uses, of distributions that are made here."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from edgeslm.cli.doctor.distributions import judge_distributions, judge_extras
from edgeslm.cli.doctor.probes import Probes
from edgeslm.config.loader import parse_config

OWN = (
    "paho-mqtt<3",
    'tokenizers; extra == "node"',
    'numpy; extra == "node"',
    'edgeslm[node]; extra == "api"',
    'uvicorn; extra == "api"',
    'edgeslm[api]; extra == "console"',
    'cryptography; extra == "verify"',
    'ruff; extra == "dev"',
    'mypy; extra == "dev"',
)
TOKENIZERS = ("huggingface_hub<3,>=0.16", 'pytest; extra == "testing"')
DEVICE = {"edgeslm": OWN, "paho-mqtt": (), "tokenizers": TOKENIZERS, "numpy": ()}
HUB = {
    "huggingface-hub": ("httpx2", "tqdm"),
    "httpx2": ("anyio[trio]",),
    "tqdm": (),
    "anyio": ("idna>=2",),
    "idna": (),
}


def install(folder: Path, named: dict[str, tuple[str, ...]]) -> list[Distribution]:
    made: list[Distribution] = []
    for name, requires in named.items():
        info = folder / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir(parents=True)
        lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {line}" for line in requires)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        (info / "RECORD").write_text(f"{name}/__init__.py,,1500000\n")
        made.append(PathDistribution(info))
    return made


def test_a_device_of_the_list_has_nothing_to_spare(tmp_path: Path) -> None:
    assert judge_distributions(install(tmp_path, {**DEVICE, "pip": ()})) == []


def test_what_comes_only_through_the_hub_is_named(tmp_path: Path) -> None:
    (finding,) = judge_distributions(install(tmp_path, DEVICE | HUB))
    assert (finding.subject, finding.level) == ("libraries", "ok")
    assert finding.text == "5 unused packages (8 MB): anyio, httpx2, huggingface-hub, idna, tqdm"
    assert "requirements/device.txt" in finding.advice


def test_what_an_extra_needs_is_used(tmp_path: Path) -> None:
    more = {"uvicorn": ("anyio",)}
    (finding,) = judge_distributions(install(tmp_path, DEVICE | HUB | more))
    assert finding.text.endswith(": httpx2, huggingface-hub, tqdm")


def test_half_of_an_extra_uses_nothing(tmp_path: Path) -> None:
    (finding,) = judge_distributions(install(tmp_path, DEVICE | {"ruff": ()}))
    assert finding.text.endswith("(2 MB): ruff")


def test_an_environment_of_others_is_none_of_our_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge_distributions(install(tmp_path, {"huggingface-hub": ()})) == []
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    assert judge_distributions(Probes().distributions()) == []


def test_those_of_this_environment_are_read() -> None:
    for finding in judge_distributions(Probes().distributions()):
        assert finding.level == "ok" and " unused package" in finding.text


CONFIG = """
node: hall
broker: {url: mqtt://localhost}
models: {small: {bundle: /b}}
tasks: {say: {kind: generate, model: small}}
"""


def test_an_extra_that_the_configuration_needs_and_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node doesn't start without the first two."""
    sections = "console: {}\njournal: {key_file: /k}\ntracing: {endpoint: 'http://localhost:4318'}\n"
    for name in ("starlette", "cryptography", "opentelemetry"):
        monkeypatch.setitem(sys.modules, name, None)
    found = judge_extras(parse_config(CONFIG + sections))
    assert [(finding.level, finding.text.partition(",")[0], finding.advice) for finding in found] == [
        ("bad", "console needs the extra api", "pip install '.[api]' in a clone"),
        ("bad", "journal.key_file needs the extra encrypt", "pip install '.[encrypt]' in a clone"),
        ("warn", "tracing needs the extra tracing", "pip install '.[tracing]' in a clone"),
    ]
    assert judge_extras(parse_config(CONFIG)) == []


def test_an_extra_that_is_there_is_not_told() -> None:
    pytest.importorskip("starlette")
    assert judge_extras(parse_config(f"{CONFIG}console: {{}}\n")) == []
