"""Bundles with golden answers, as the current export makes them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.prepack.golden import FILE, Golden, record
from edgeslm.engine.worker.loading import PLAIN

PROMPTS = ((504, 3575, 282, 4649, 314), (1780, 506, 260, 2240, 47))


def with_golden(source: Path, folder: Path, golden: Golden | None = None) -> Bundle:
    """A copy of a decoder bundle with ``golden``, or with its own answers on this machine."""
    shutil.copytree(source, folder)
    golden = golden or record(PLAIN.load(folder, "", 2), PROMPTS)
    (folder / FILE).write_text(golden.model_dump_json())
    manifest = json.loads((folder / "manifest.json").read_text())
    written = (folder / FILE).read_bytes()
    entry = {"path": FILE, "bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}
    manifest["files"] = [file for file in manifest["files"] if file["path"] != FILE] + [entry]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_bundle(folder)
