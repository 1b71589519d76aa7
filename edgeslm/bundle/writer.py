"""Manifest writer: lists a folder's files with size and digest, and names bundles.

``edgeslm-export`` writes all its bundles with it, a device those of ready models (``ready_model``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeslm.bundle.manifest import MANIFEST, REPORT, SIGNATURE, FileEntry, Manifest, file_digest

_GGUF_QUANTIZATION: Final = re.compile(r"[-._](q\d\w*|iq\d\w*|f16|f32|bf16|fp16|tq\d\w*)$", re.IGNORECASE)


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes ``report.json``. The bundle's digest covers the report, so the report must not depend on date or
    machine load."""
    (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def write_manifest(folder: Path, fields: Mapping[str, Any]) -> Manifest:
    """Writes ``manifest.json``, with the path, size and digest of every file of ``folder``.

    :param fields: the manifest without ``files``.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    files = tuple(
        FileEntry(path=name, bytes=(folder / name).stat().st_size, sha256=file_digest(folder / name))
        for name in names
        if name not in (MANIFEST, SIGNATURE)
    )
    manifest = Manifest(files=files, **fields)
    data = manifest.model_dump(mode="json", exclude_none=True)
    (folder / MANIFEST).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return manifest


def bundle_name(source_id: str, suffix: str) -> str:
    """A bundle's name: ``HuggingFaceTB/SmolLM2-135M-Instruct`` -> ``smollm2-135m-instruct-int4``."""
    stem = source_id.rsplit("/", 1)[-1]
    if stem.lower().endswith(".gguf"):
        stem = _GGUF_QUANTIZATION.sub("", stem[: -len(".gguf")])
    plain = re.sub(r"[^a-z0-9.]+", "-", stem.lower()).strip("-.")
    return f"{plain or 'model'}-{suffix}"
