"""Wrapping: makes a ready folder of onnxruntime-genai a bundle; nothing is converted and torch isn't needed.

The folder is judged and described by ``edgeslm.bundle.ready_model``; the engine runs it once
(``edgeslm.engine.prepack.ready``).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm_export.bundle.writer import created_at, release_number, staged
from edgeslm_export.sources.checkpoint import licence_of

from edgeslm.bundle.manifest import Manifest, Source, file_digest
from edgeslm.bundle.ready_model import ReadyModel, judge
from edgeslm.engine.prepack.ready import make_bundle
from edgeslm.errors import ExportError


@dataclass(frozen=True, slots=True)
class ReadySource:
    """A ready folder on this machine; ``revised`` is the UTC date of its revision or "" if it has none."""

    folder: Path
    source: Source
    revised: str = ""


def local_source(folder: Path) -> ReadySource:
    """A local folder, whose origin is its name and a digest of its graph."""
    ready = judge(folder)
    digest = f"sha256:{file_digest(folder / ready.graph)}"
    source = Source(id=folder.resolve().name, revision=digest, licence=licence_of(folder))
    return ReadySource(folder, source)


def wrap_model(origin: ReadySource, out: Path) -> tuple[Manifest, dict[str, Any]]:
    """Makes the bundle ``out`` from a ready folder.

    :return: the manifest, and measurements of the bundle on this machine.
    :raises BundleError: the folder can't be served; the text says why.
    :raises ExportError: ``out`` exists, or the disk has too little room.
    """
    ready = judge(origin.folder)
    with staged(out) as stage:
        _copy(origin.folder, ready, stage)
        created = created_at(origin.revised)
        manifest, trial = make_bundle(stage, ready, origin.source, created, release=release_number())
    measured = trial.model_dump(exclude={"answers"})
    return manifest, {
        **measured,
        "golden_answers": trial.answers,
        "left_out": list(ready.left_out),
        "lacks": ready.lacks,
        "changed": ready.changes,
    }


def _copy(folder: Path, ready: ReadyModel, stage: Path) -> None:
    size = sum((folder / name).stat().st_size for name in ready.files)
    free = shutil.disk_usage(stage).free
    if free < size:
        raise ExportError(
            f"{stage.parent} has {free / 1e9:.1f} GB free and the bundle needs {size / 1e9:.1f} GB; "
            "free some space or write to another disk."
        )
    for name in ready.files:  # judged: plain names, and links of the hub's cache only
        shutil.copyfile(folder / name, stage / name)
