"""Installed distributions: those that a configuration lacks, and those that nothing here uses.

What is unused takes room of the disk. A plain ``pip install`` brings some: tokenizers requires a hub's
client, with two HTTP libraries, to fetch files, which no device does. The lists in ``requirements/`` leave
them out. Knows no models.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution

from edgeslm.cli.doctor.finding import Finding, Level, megabytes
from edgeslm.config.loader import Config

OWN = "edgeslm"
INSTALLERS = frozenset({OWN, "pip", "setuptools", "wheel", "uv"})
NEVER_USED: Mapping[str, str] = {"tokenizers": "huggingface-hub"}
"""What a distribution requires for something that isn't done here."""

ADVICE = "an environment by requirements/device.txt has less (docs/getting-started/install.md)"


@dataclass(frozen=True, slots=True)
class Need:
    """A requirement: a distribution, the extras of it, and the extra that has it; "" is the bare package."""

    name: str
    extras: frozenset[str] = frozenset()
    extra: str = ""


def judge_extras(config: Config) -> list[Finding]:
    """Sections of ``config`` for which an extra isn't installed. What signatures need is told with these."""
    wanted: list[tuple[str, bool, str, tuple[str, ...], Level]] = [
        ("console", config.console is not None, "api", ("starlette", "uvicorn"), "bad"),
        ("journal.key_file", config.journal.key_file is not None, "encrypt", ("cryptography",), "bad"),
        ("tracing", config.tracing.endpoint is not None, "tracing", ("opentelemetry",), "warn"),
    ]
    findings = []
    for key, is_there, extra, libraries, level in wanted:
        if is_there and any(importlib.util.find_spec(name) is None for name in libraries):
            text = f"{key} needs the extra {extra}, which isn't installed"
            findings.append(Finding("libraries", level, text, f"pip install 'edgeslm[{extra}]'"))
    return findings


def judge_distributions(installed: Iterable[Distribution]) -> list[Finding]:
    found = {canonical(one.metadata["Name"]): one for one in installed}
    if OWN not in found:
        return []
    unused = sorted(set(found) - used(found) - INSTALLERS)
    if not unused:
        return []
    size = megabytes(sum(map(_bytes, (found[name] for name in unused))))
    text = f"{len(unused)} that nothing uses ({size}): {', '.join(unused)}"
    return [Finding("libraries", "ok", text, ADVICE)]


def used(installed: Mapping[str, Distribution]) -> set[str]:
    """Names of what this package and its extras need, as far as they are installed, and what that needs."""
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
    """Extras of this package of which all is there. One that is made of others alone is none of its own."""
    whole = set()
    for extra in {need.extra for need in own} - {""}:
        names = {need.name for need in own if need.extra == extra and need.name != OWN}
        if names and all(name in installed for name in names):
            whole.add(extra)
    return whole


def needs(distribution: Distribution) -> list[Need]:
    """What it says that it requires, whatever the Python and the machine."""
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
    """As names of distributions and extras are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _bytes(distribution: Distribution) -> int:
    return sum(file.size or 0 for file in distribution.files or ())
