"""Signed bundles for tests: keys and signatures made as on the build machine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edgeslm_export.bundle.sign import make_key, sign_bundle

from edgeslm.bundle.manifest import SIGNATURE

FILES = {
    "model.onnx": b"the graph",
    "model.onnx.data": b"weights of a model, four bits each",
    "tokenizer.json": b'{"version": "1.0"}',
    "report.json": b'{"kl": 0.1}',
    "heads/one.npz": b"a head",
    "heads/two.npz": b"b head",
}


class Signer:
    """A key pair in ``folder``."""

    def __init__(self, folder: Path, name: str = "factory") -> None:
        self.key = folder / f"{name}.key"
        self.public = make_key(self.key)

    def sign(self, bundle: Path) -> Path:
        sign_bundle(bundle, self.key)
        assert (bundle / SIGNATURE).is_file()
        return bundle


def write_files(folder: Path, **changes: Any) -> Path:
    """A bundle with several files, some in subfolders."""
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    write_manifest(folder, **changes)
    return folder


def write_manifest(folder: Path, **changes: Any) -> None:
    """A manifest that matches the current files, as an attacker who changed them would write it."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    manifest = {
        "format": 1,
        "name": "tiny",
        "kind": "decoder",
        "architecture": "LlamaForCausalLM",
        "source": {"id": "here"},
        "files": [
            {
                "path": name,
                "bytes": len(data := (folder / name).read_bytes()),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            for name in names
            if name not in ("manifest.json", SIGNATURE)
        ],
        "context_length": 64,
        "graphs": {"generate": "model.onnx"},
        "created": "2026-01-01T00:00:00Z",
        **changes,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
