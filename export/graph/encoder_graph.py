"""Encoder graph: child process that exports an encoder to float ONNX with torch's own exporter.

Runs as ``python -m edgeslm_export.graph.encoder_graph`` with a task on standard input (see
``subprocess_job``), which has ``source``, ``out``, ``pooling``, ``normalize``, ``context_length`` and
``texts``. The result equals that of ``models/optimum_worker.py``: the folder ``float`` with graph, tokenizer
and configuration, and ``reference.npy``. The graph gives the last hidden states. It is made by tracing,
whose result doesn't depend on the example's length for the families in ``checkpoint.ENCODERS``;
``models.encoder`` compares vectors of texts of different lengths.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from pathlib import Path
from typing import Any

from edgeslm_export.jobs.subprocess_job import Reporter

_OPSET = 18
_EXAMPLE = 19
"""Tokens of the example that is traced."""


def export(task: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Runs in the child process."""
    import numpy as np
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    reporter.progress(1, 4, "exporting")
    source, out = task["source"], Path(task["out"])
    folder = out / "float"
    folder.mkdir()
    model = transformers.AutoModel.from_pretrained(
        source,
        local_files_only=True,
        dtype=torch.float32,
        attn_implementation="eager",  # fewer nodes than the fused attention, which allows rows of padding
    ).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    write_graph(model, folder / "model.onnx")
    reporter.progress(2, 4, "comparing")
    np.save(out / "reference.npy", _float_vectors(model, tokenizer, task))
    return {}


def write_graph(model: Any, file: Path) -> None:
    """Writes the ONNX graph of a transformers encoder, with the inputs ``input_ids``, ``attention_mask`` and,
    if the model has segments, ``token_type_ids``, each [batch, tokens]; its output is [batch, tokens,
    dimension]."""
    import torch

    class LastHidden(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, ids: Any, mask: Any, kinds: Any = None) -> Any:
            segments = {} if kinds is None else {"token_type_ids": kinds}
            return self.encoder(input_ids=ids, attention_mask=mask, **segments).last_hidden_state

    names = ["input_ids", "attention_mask"]
    if _has_segments(model):
        names.append("token_type_ids")
    ids = torch.full((2, _EXAMPLE), 5)
    mask = torch.ones_like(ids)
    mask[1, _EXAMPLE // 2 :] = 0  # a row with padding, so that the mask isn't taken for a constant
    example = (ids, mask, torch.zeros_like(ids))[: len(names)]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the tracer, about shapes, and that a newer exporter exists
        torch.onnx.export(
            LastHidden().eval(),
            example,
            str(file),
            input_names=names,
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*names, "last_hidden_state")},
            opset_version=_OPSET,
            dynamo=False,  # the newer exporter needs onnxscript, and unrolls DeBERTa's buckets
        )


def _has_segments(model: Any) -> bool:
    taken = inspect.signature(model.forward).parameters
    return "token_type_ids" in taken and getattr(model.config, "type_vocab_size", 0) > 1


def _float_vectors(model: Any, tokenizer: Any, task: dict[str, Any]) -> Any:
    """Vectors [texts, dimension] float32 of the original model in PyTorch."""
    import numpy as np
    import torch

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
    sys.exit(Reporter().run(export))
