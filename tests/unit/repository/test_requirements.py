"""The lists of what is installed agree with pyproject.toml and each other. ``scripts/lock`` makes them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT
from tests.unit.repository.test_structure import declared

FOLDER = ROOT / "requirements"
OPTIMUM = ROOT / "export" / "optimum.txt"
DEVICE_EXTRAS = (
    "api",
    "mcp",
    "documents",
    "encrypt",
    "heads",
    "provision",
    "remote",
    "tracing",
    "verify",
    "demo-broker",
)
LISTS: Mapping[str, tuple[str, ...]] = {
    "device": ("node",),
    **{f"device-{extra}": (extra,) for extra in DEVICE_EXTRAS},
    "export": ("export",),
    "teach": ("teach", "qlora"),
    "chart": ("chart",),
    "docs": ("docs",),
    "dev": ("dev",),
}
"""Each list and the extras that it is for. Those of a device's extras hold what ``device`` lacks."""

HUB = {
    *("huggingface-hub", "hf-xet", "httpx2", "httpcore2", "anyio", "h11", "idna", "truststore"),
    *("click", "filelock", "fsspec", "tqdm"),
}
"""What tokenizers requires to fetch files, which no device does."""

ENVIRONMENTS = [
    {
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.1",
        "platform_machine": machine,
        "sys_platform": "linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    for minor in (11, 12, 13, 14)
    for machine in ("x86_64", "aarch64")
]
"""What the lists are for."""


@dataclass(frozen=True)
class Pin:
    """A line of a list."""

    name: str
    version: str
    marker: str
    hashes: int


def pins(file: Path) -> Iterator[Pin]:
    for line in re.sub(r"\\\n", " ", file.read_text()).splitlines():
        found = re.fullmatch(r"([a-z0-9.-]+)==(\S+)( ; (.+?))?((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert found is not None, f"{file.name}: {line[:80]}"
        yield Pin(found[1], found[2], found[4] or "", found[5].count("--hash"))


def chosen(file: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Versions by name that ``environment`` gets."""
    found: dict[str, str] = {}
    for pin in pins(file):
        if not pin.marker or Marker(pin.marker).evaluate(dict(environment)):
            assert found.setdefault(pin.name, pin.version) == pin.version
    return found


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def test_each_list_is_known_and_each_line_has_hashes() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == {*LISTS, "build"}
    for file in [*FOLDER.glob("*.txt"), OPTIMUM]:
        assert all(pin.hashes for pin in pins(file))


@pytest.mark.parametrize("name", LISTS)
def test_what_is_declared_is_in_its_list_within_its_bounds(name: str) -> None:
    """torch is installed by its range: its builds for this or that accelerator have one name."""
    brings = declared()
    for environment in ENVIRONMENTS:
        versions = chosen(path_of(name), environment)
        if name.startswith("device-"):
            versions |= chosen(path_of("device"), environment)
        for extra in LISTS[name]:
            for requirement in brings[extra].values():
                if requirement.name == "torch" or (
                    requirement.marker and not requirement.marker.evaluate(environment)
                ):
                    continue
                version = versions.get(canonicalize_name(requirement.name))
                assert version is not None, f"{name}.txt lacks {requirement}: scripts/lock"
                assert requirement.specifier.contains(version), f"{name}.txt: {requirement}, not {version}"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda one: "-".join(list(one.values())[1:3]))
def test_any_of_the_lists_can_be_installed_together(environment: Mapping[str, str]) -> None:
    together: dict[str, str] = {}
    for name in [*LISTS, "build"]:
        for package, version in chosen(path_of(name), environment).items():
            assert together.setdefault(package, version) == version, f"{name}.txt: {package}"


def test_a_device_gets_the_hubs_http_client_only_for_servers_and_mcp() -> None:
    assert not HUB & {pin.name for pin in pins(path_of("device"))}
    server = {"anyio", "h11", "idna", "click"}
    client = {"httpx2", "httpcore2", "truststore"}
    shared = {"api": server, "tracing": {"idna"}, "mcp": server | client}
    shared["remote"] = {"anyio", "h11", "idna"} | client
    for extra in DEVICE_EXTRAS:
        added = {pin.name for pin in pins(path_of(f"device-{extra}"))}
        assert added & HUB == shared.get(extra, set())
        assert not added & {pin.name for pin in pins(path_of("device"))}


def test_a_device_stays_small() -> None:
    """With this package and documents; the figures with the sizes are printed by scripts/device-size."""
    for environment in ENVIRONMENTS:
        plain = chosen(path_of("device"), environment) | chosen(path_of("device-documents"), environment)
        assert 1 + len(plain) <= 25
        assert 1 + len(plain | chosen(path_of("device-verify"), environment)) <= 28


def test_no_list_pins_torch_or_what_comes_with_it() -> None:
    for file in [*FOLDER.glob("*.txt"), OPTIMUM]:
        names = {pin.name for pin in pins(file)}
        assert not {name for name in names if re.match(r"torch$|triton$|nvidia-|cuda-", name)}, file.name


def test_what_optimum_s_group_names_is_in_its_list() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = {pin.name: pin.version for pin in pins(OPTIMUM)}
    for requirement in map(Requirement, project["dependency-groups"]["optimum"]):
        assert requirement.specifier.contains(versions[requirement.name]), f"{requirement}: scripts/lock"


def test_what_builds_the_wheel_is_in_its_list() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    versions = {pin.name: pin.version for pin in pins(path_of("build"))}
    for requirement in map(Requirement, project["build-system"]["requires"]):
        assert requirement.specifier.contains(versions[requirement.name])
    assert "pip" in versions
