"""Reader bundles for tests: the real small encoder with hand-made layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgeslm.bundle.manifest import file_digest, load_bundle

_FILE = "head.npz"


def make_reader(encoder: Path, folder: Path, *, points: bool = True) -> Path:
    """:param encoder: the encoder's bundle. :param points: with a layer for answer spans."""
    shutil.copytree(encoder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    section = load_bundle(encoder).manifest.encoder
    assert section is not None
    weight = np.random.default_rng(1).normal(size=(3, section.dimension)).astype(np.float32)
    arrays: dict[str, Any] = {"weight": weight[:1], "bias": np.zeros(1, np.float32)}
    if points:
        arrays |= {"place_weight": weight[1:], "place_bias": np.zeros(2, np.float32)}
    np.savez(folder / _FILE, **arrays)
    manifest["kind"], manifest["head"] = "head", {"reads": "pairs"}
    manifest["encoder"] |= {"pooling": "cls", "normalize": False}
    size, digest = (folder / _FILE).stat().st_size, file_digest(folder / _FILE)
    manifest["files"].append({"path": _FILE, "bytes": size, "sha256": digest})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
