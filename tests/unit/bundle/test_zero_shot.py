"""The zero-shot section of a manifest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgeslm.bundle.manifest import Manifest, parse_manifest
from edgeslm.errors import BundleError

NLI = {"kind": "nli", "weights": "layers.npz", "classes": 3, "entailment": 2}


def parse(section: dict[str, Any], **changes: Any) -> Manifest:
    files = [{"path": name, "bytes": 1, "sha256": "0" * 64} for name in ("model.onnx", "layers.npz")]
    made = {
        "format": 1,
        "name": "tiny",
        "kind": "encoder",
        "architecture": "GLiClass",
        "source": {"id": "here"},
        "files": files,
        "context_length": 64,
        "graphs": {"encode": "model.onnx"},
        "encoder": {"dimension": 8},
        "zero_shot": section,
        "created": "2026-01-01T00:00:00Z",
        **changes,
    }
    return parse_manifest(json.dumps(made).encode(), "manifest.json")


def test_a_zero_shot_encoder_embeds_no_texts() -> None:
    manifest = parse(NLI)
    assert manifest.zero_shot is not None and manifest.zero_shot.kind == "nli"
    assert manifest.model_kind == "encoder" and not manifest.embeds


def test_its_layers_must_be_listed() -> None:
    with pytest.raises(BundleError, match=r"'other\.npz' is used but not among its files"):
        parse({**NLI, "weights": "other.npz"})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({**NLI, "hypothesis": "no place for a label"}, "zero_shot.nli.hypothesis"),
        ({**NLI, "kind": "other"}, "zero_shot"),
        ({"kind": "gliner", "label_token": 1, "text_token": 2, "longest": 0, "most_words": 9}, "longest"),
    ],
)
def test_sections_that_say_nothing_useful(section: dict[str, Any], key: str) -> None:
    with pytest.raises(BundleError, match=key):
        parse(section)


def test_a_decoder_has_no_such_section() -> None:
    with pytest.raises(BundleError, match="of kind decoder, but with the section 'zero_shot'"):
        parse(NLI, kind="decoder", encoder=None)
