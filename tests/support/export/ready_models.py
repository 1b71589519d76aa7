"""Ready folders as makers publish them: onnxruntime-genai's own builder on tiny random models.

``python -m tests.support.export.ready_models OUT NAME...`` writes a folder for each name of ``READY`` to OUT.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import Any

READY: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "phi3": {},
    "gemma2": {},
    "gemma3": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64, "num_hidden_layers": 6},
    "mistral": {"tie_word_embeddings": False},
}
"""Families with the settings of a small model."""


def make(name: str, out: Path) -> None:
    import torch
    from edgeslm_export.graph.builder_fixes import mended_builder
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    from tests.support.export.tiny_models import write_decoder

    torch.manual_seed(7)
    with tempfile.TemporaryDirectory() as work:
        source = str(Path(work, "source"))
        write_decoder(Path(source), name, initializer_range=0.1, **READY[name])
        order = (None, source, str(out), "int4", "cpu", str(Path(work, "cache")))
        with contextlib.redirect_stdout(sys.stderr), mended_builder():
            options = parse_extra_options(*order, ["hf_token=false"])
            create_model(*order, **options)
    (out / "README.md").write_text("---\nlicense: mit\n---\n")
    (out / "configuration_tiny.py").write_text("raise SystemExit('this must not run')\n")


if __name__ == "__main__":
    target, *names = sys.argv[1:]
    for wanted in names:
        make(wanted, Path(target, wanted))
