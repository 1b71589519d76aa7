"""Optimum worker: exports an encoder to float ONNX and computes reference vectors, in optimum's environment.

The worker is run by its path with ``python -I`` and imports nothing from edgeslm_export, since optimum's
environment doesn't have that package. The task is a JSON object on standard input, with ``source``, ``out``,
``pooling``, ``normalize``, ``context_length``, ``texts``. The worker writes its progress and result in the
format of ``subprocess_job``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

_OUT = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def _send(message: dict[str, Any]) -> None:
    _OUT.write(json.dumps(message) + "\n")
    _OUT.flush()


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Writes ``float/`` (optimum's export) and ``reference.npy`` into ``out``."""
    import numpy as np
    from optimum.exporters.onnx import main_export

    source, out = task["source"], Path(task["out"])
    _send({"progress": [1, 4, "exporting"]})
    main_export(
        source,
        out / "float",
        task="feature-extraction",
        library_name="transformers",
        do_validation=False,
        local_files_only=True,
    )
    _send({"progress": [2, 4, "comparing"]})
    np.save(out / "reference.npy", _float_vectors(task))
    return {}


def _float_vectors(task: dict[str, Any]) -> Any:
    """Vectors [texts, dimension] float32 of the original model in PyTorch."""
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task["source"], local_files_only=True)
    model = AutoModel.from_pretrained(task["source"], local_files_only=True, dtype=torch.float32).eval()
    vectors = []
    with torch.inference_mode():
        for text in task["texts"]:
            encoded = tokenizer(text, truncation=True, max_length=task["context_length"], return_tensors="pt")
            inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
            hidden = model(**inputs).last_hidden_state[0]
            vector = hidden[0] if task["pooling"] == "cls" else hidden.mean(dim=0)
            vectors.append(vector / vector.norm() if task["normalize"] else vector)
    return np.asarray(torch.stack(vectors).numpy(), np.float32)


if __name__ == "__main__":
    _send({"result": run(json.load(sys.stdin))})
