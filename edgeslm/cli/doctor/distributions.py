"""Doctor checks of Python packages: extras that a configuration lacks, and unused packages.

Unused packages take disk space. A plain ``pip install`` installs some unused packages: tokenizers requires
huggingface-hub and two HTTP libraries for downloads, but devices never use tokenizers to download anything.
The lists in ``requirements/`` leave unused packages out.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution

from edgeslm.cli.doctor.finding import Finding, Level, megabytes
from edgeslm.config.extras import install_line
from edgeslm.config.loader import Config

OWN = "edgeslm"
INSTALLERS = frozenset({OWN, "pip", "setuptools", "wheel", "uv"})
NEVER_USED: Mapping[str, str] = {"tokenizers": "huggingface-hub"}
"""Maps a package to one of its dependencies that edgeslm never uses."""

ADVICE = "install from requirements/device.txt to avoid it (docs/getting-started/install.md)"


@dataclass(frozen=True, slots=True)
class Need:
    """A requirement: a package's name and wanted extras.

    ``extra``: the extra under which the package is required; empty if it is always required.
    """

    name: str
    extras: frozenset[str] = frozenset()
    extra: str = ""


def judge_extras(config: Config) -> list[Finding]:
    """Finds sections of ``config`` whose extra isn't installed.

    The extra for signatures is checked in :mod:`.bundles`.
    """
    wanted: list[tuple[str, bool, str, tuple[str, ...], Level]] = [
        ("console", config.console is not None, "api", ("starlette", "uvicorn"), "bad"),
        ("api", config.api is not None, "api", ("starlette", "uvicorn"), "bad"),
        ("openai", any(task.remote for task in config.tasks.values()), "remote", ("httpx2",), "bad"),
        ("api.mcp", config.api is not None and config.api.mcp is not False, "mcp", ("mcp",), "bad"),
        ("journal.key_file", config.journal.key_file is not None, "encrypt", ("cryptography",), "bad"),
        ("tracing", config.tracing.endpoint is not None, "tracing", ("opentelemetry",), "warn"),
    ]
    findings = []
    for key, is_there, extra, libraries, level in wanted:
        if is_there and any(importlib.util.find_spec(name) is None for name in libraries):
            text = f"{key} needs the extra {extra}, which isn't installed"
            findings.append(Finding("libraries", level, text, install_line(extra)))
    return findings


def judge_distributions(installed: Iterable[Distribution]) -> list[Finding]:
    found = {canonical(one.metadata["Name"]): one for one in installed}
    if OWN not in found:
        return []
    unused = sorted(set(found) - used(found) - INSTALLERS)
    if not unused:
        return []
    size = megabytes(sum(map(_bytes, (found[name] for name in unused))))
    packages = "package" if len(unused) == 1 else "packages"
    text = f"{len(unused)} unused {packages} ({size}): {', '.join(unused)}"
    return [Finding("libraries", "ok", text, ADVICE)]


def used(installed: Mapping[str, Distribution]) -> set[str]:
    """Installed packages that edgeslm and its installed extras need, directly or indirectly."""
    own = needs(installed[OWN])
    names, waiting = {OWN}, [Need(OWN, frozenset(_extras(own, installed)))]
    seen = set()
    while waiting:
        need = waiting.pop()
        if need in seen or need.name not in installed:
            continue
        seen.add(need)
        names.add(need.name)
        waiting += [
            one
            for one in needs(installed[need.name])
            if one.extra in ("", *need.extras) and NEVER_USED.get(need.name) != one.name
        ]
    return names


def _extras(own: Collection[Need], installed: Mapping[str, Distribution]) -> set[str]:
    """Extras of edgeslm that are completely installed, except those that consist only of other extras."""
    whole = set()
    for extra in {need.extra for need in own} - {""}:
        names = {need.name for need in own if need.extra == extra and need.name != OWN}
        if names and all(name in installed for name in names):
            whole.add(extra)
    return whole


def needs(distribution: Distribution) -> list[Need]:
    """All requirements of a package; conditions on the Python version or the platform are ignored."""
    found = []
    for line in distribution.requires or ():
        requirement, _, marker = line.partition(";")
        parts = re.match(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?", requirement)
        if parts is None:
            continue
        extra = re.search(r"""\bextra\s*==\s*["']([\w.-]+)["']""", marker)
        wanted = frozenset(canonical(name.strip()) for name in (parts[2] or "").split(",") if name.strip())
        found.append(Need(canonical(parts[1]), wanted, canonical(extra[1]) if extra else ""))
    return found


def canonical(name: str) -> str:
    """Normalized name of a package or extra (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _bytes(distribution: Distribution) -> int:
    return sum(file.size or 0 for file in distribution.files or ())
