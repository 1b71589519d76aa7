"""Doctor checks of document collections and watched folders, and of paths that the service can't read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgeslm.cli.doctor.finding import Finding
from edgeslm.cli.doctor.probes import Probes
from edgeslm.config.loader import Config
from edgeslm.config.schema import Knowledge
from edgeslm.errors import KnowledgeError, plural

HOMES = ("/home", "/root", "/run/user")
"""Folders that ProtectHome= hides from the service."""


def judge_collections(config: Config) -> list[Finding]:
    """Returns a finding for each collection, and one for each watched path that can't be read."""
    findings = []
    filled = {route.remember for route in config.routes if route.remember}
    for name, section in config.knowledge.items():
        findings.append(
            _collection(f"collection {name}", section, made=bool(section.watch) or name in filled)
        )
        for path in section.watch:
            if not os.access(path, os.R_OK):
                why = "can't be read by this user" if path.exists() else "isn't there"
                advice = "correct knowledge.watch, or let the user edgeslm read it"
                findings.append(Finding(f"collection {name}", "warn", f"{path} {why}", advice))
    return findings


def _collection(subject: str, section: Knowledge, *, made: bool) -> Finding:
    """Checks one collection. :param made: whether the node creates the collection if it doesn't exist."""
    from edgeslm.knowledge.index.collection import Collection  # lazy: few configurations have any
    from edgeslm.knowledge.index.database import find_collection

    if made and not find_collection(section.path).exists():
        return Finding(subject, "ok", f"{section.path} isn't there yet; the node makes it")
    try:
        with Collection(section.path) as collection:
            documents, without = len(collection.documents()), collection.unembedded
    except KnowledgeError as error:
        advice = "make it with edgeslm knowledge add, or copy it again"
        return Finding(subject, "bad", str(error), advice)
    text = plural(documents, "document")
    if section.encoder is not None and without:
        text += f", {plural(without, 'passage')} without a vector: the node embeds them when it is idle"
    return Finding(subject, "ok", text)


def judge_homes(config: Config, file: Path | None, probes: Probes) -> list[Finding]:
    """Finds configured paths that the sandbox of the service hides.

    Nothing is checked if the configuration ``file`` is in a home folder, since such a file is used with
    ``edgeslm run`` and not by the service.
    """
    if not probes.has_service() or (file is not None and _is_in_home(file.absolute())):
        return []
    hidden = [str(path) for path in _paths(config) if _is_in_home(path)]
    if not hidden:
        return []
    text = f"edgeslm.service can't read home folders: {', '.join(hidden)}"
    return [Finding("homes", "warn", text, "move them to /var/lib/edgeslm or /srv; `edgeslm run` reads them")]


def _is_in_home(path: Path) -> bool:
    return any(Path(home) in path.parents for home in HOMES)


def _paths(config: Config) -> Iterator[Path]:
    if "state_dir" in config.model_fields_set:  # else systemd sets it for the service
        yield config.state_dir
    yield from config.bundles.values()
    yield from (task.learned for task in config.tasks.values() if task.learned is not None)
    yield from config.signing.keys
    for section in config.knowledge.values():
        yield section.path
        yield from section.watch
