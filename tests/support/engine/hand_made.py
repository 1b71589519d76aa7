"""Hand-made heads for tests: known weights, and bundles of them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.taught import CLASSIFY


def classifier(dimension: int) -> dict[str, Any]:
    """The arrays of a head with two labels."""
    return {"weight": np.eye(2, dimension, dtype=np.float32), "bias": np.zeros(2, np.float32)}


def pointer(dimension: int, fields: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    """The arrays of a head that extracts ``fields``, with uniform probabilities."""
    options = sum(
        field["optional"] + bool(field.get("longest")) + len(field.get("values", ())) for field in fields
    )
    return {
        "weight": np.zeros((options, dimension), np.float32),
        "bias": np.zeros(options, np.float32),
        "place_weight": np.zeros((len(fields), 3, dimension), np.float32),
        "place_bias": np.zeros((len(fields), 3), np.float32),
        **changes,
    }


def pack(arrays: Mapping[str, Any]) -> bytes:
    """The weights file of a head, without arrays that are None."""
    stream = io.BytesIO()
    np.savez(stream, **{name: value for name, value in arrays.items() if value is not None})
    return stream.getvalue()


def write_head(
    folder: Path, encoder: str | None, weights: bytes, learned: Mapping[str, Any] = CLASSIFY
) -> Path:
    """:param encoder: digest of the encoder's bundle."""
    folder.mkdir(exist_ok=True)
    (folder / "head.npz").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    manifest = {
        "format": 1,
        "name": "t",
        "kind": "head",
        "architecture": "logistic-regression",
        "source": {"id": "here"},
        "files": [{"path": "head.npz", "bytes": len(weights), "sha256": digest}],
        "head": {"encoder": encoder},
        "learned": learned,
        "created": "2026-01-01T00:00:00Z",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
