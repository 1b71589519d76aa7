"""Bundles of learned tasks, and the base of an adapter, for fake engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgeslm.bundle.manifest import Bundle, Manifest, load_bundle
from tests.support.nodes import SECTIONS, write_bundle

CLASSIFY: dict[str, Any] = {"task": "topic", "kind": "classify", "labels": ["spam", "ham"], "rows": 9}
"""The section ``learned`` of a classify task."""

EXTRACT: dict[str, Any] = {
    "task": "fields",
    "kind": "extract",
    "output_schema": {
        "type": "object",
        "properties": {"machine": {"type": "string"}},
        "required": ["machine"],
    },
    "instruction": "Write the machine as JSON.",
    "rows": 9,
}
"""The section ``learned`` of an extract task."""

RISK = [
    {"threshold": 0.0, "error": 0.2, "coverage": 1.0},
    {"threshold": 0.6, "error": 0.1, "coverage": 0.8},
    {"threshold": 0.9, "error": 0.02, "coverage": 0.5},
]


def calibration(**changes: Any) -> dict[str, Any]:
    """A calibration of two labels that doesn't change probabilities."""
    return {"scale": [1.0, 1.0], "bias": [0.0, 0.0], "rows": 50, **changes}


def write_head(folder: Path, encoder: str | None, **learned: Any) -> Path:
    """:param encoder: digest of the encoder's bundle; None: this one has its own."""
    write_bundle(folder, "head")
    own = {"graphs": {"encode": "model.onnx"}, "encoder": {"dimension": 8}, "context_length": 64}
    return change_manifest(
        folder,
        head={"encoder": encoder, "weights": "model.onnx"},
        learned={**CLASSIFY, **learned},
        **({} if encoder else own),
    )


def write_adapter(folder: Path, base: str, learned: dict[str, Any] | None = None) -> Path:
    """:param base: digest of the decoder's bundle. :param learned: None: without a learned task."""
    write_bundle(folder, "adapter")
    adapter = {**SECTIONS["adapter"]["adapter"], "base": base}
    return change_manifest(folder, adapter=adapter, **({"learned": learned} if learned else {}))


def write_base(folder: Path) -> str:
    """Writes a base that takes adapters. :return: its digest."""
    write_bundle(folder)
    change_manifest(folder, graphs={"generate": "model.onnx", "adapters": "model.onnx"})
    return load_bundle(folder).digest


def change_manifest(folder: Path, **changes: Any) -> Path:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def head_bundle(**learned: Any) -> Bundle:
    """As a task sees it: there is no folder."""
    return _bundle("head", {"encoder": "sha256:0"}, {**CLASSIFY, **learned})


def adapter_bundle(learned: dict[str, Any] | None) -> Bundle:
    """As a task sees it: there is no folder."""
    return _bundle("adapter", {"base": "sha256:0", "rank": 4, "targets": ["q_proj"]}, learned)


def _bundle(kind: str, section: dict[str, Any], learned: dict[str, Any] | None) -> Bundle:
    fields: dict[str, Any] = {
        "name": "topic",
        "kind": kind,
        "architecture": "Fake",
        "source": {"id": "fake"},
        "files": [],
        "created": "2026-01-01T00:00:00Z",
        kind: section,
        "learned": learned,
    }
    return Bundle(Path("/learned/topic"), Manifest.model_validate_json(json.dumps(fields)), "sha256:1")
