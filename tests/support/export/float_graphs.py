"""Float graphs: a checkpoint through normalization and onnxruntime-genai's builder, without quantization."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

PROMPT, STEPS = 40, 6


def build_float(checkpoint: Path, work: Path) -> Path:
    """Builds the float32 graph of a checkpoint folder as an export does, but for the quantization."""
    from edgeslm_export.graph.builder_fixes import mended_builder
    from edgeslm_export.graph.recurrent_state import serve_states
    from edgeslm_export.quantize.recipe import builder_options, find_recipe
    from edgeslm_export.sources.layer_reader import LayeredModel
    from edgeslm_export.sources.normalize import make_checkpoint
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    folder, out = work / "checkpoint", work / "graph"
    make_checkpoint(checkpoint, "", folder)
    layered = LayeredModel(folder)
    for number in range(len(layered.layers)):
        layered.load_layer(number)
    Model = importlib.import_module("builders.base").Model  # noqa: N806
    options = {**builder_options(find_recipe("int8"), list(layered.matrices())), "prune_lm_head": "false"}
    options = {key: value for key, value in options.items() if key not in ("accuracy_level", "block_size")}
    pairs = [
        "hf_token=false",
        "shared_embeddings=false",
        *(f"{key}={value}" for key, value in options.items()),
    ]
    order = (None, str(folder), str(out), "fp32", "cpu", str(work / "cache"))
    with (
        contextlib.redirect_stdout(sys.stderr),
        mended_builder(),
        mock.patch.object(Model, "load_weights", lambda self, path: layered.model),
    ):
        create_model(*order, **parse_extra_options(*order, pairs))
    serve_states(out)
    return out


def difference(checkpoint: Path, graph: Path) -> float:
    """Largest difference of the graph's logits from those of transformers' model of the checkpoint, relative
    to the largest logit: of a prompt, then token by token, then after a rewind (to a kept state, if the model
    has one)."""
    import onnxruntime_genai as og
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(checkpoint)
    model = getattr(transformers, config.architectures[0]).from_pretrained(checkpoint, dtype=torch.float32)
    text = getattr(config, "text_config", config)
    ids = np.random.default_rng(1).integers(3, text.vocab_size - 3, PROMPT + STEPS)
    with torch.no_grad():
        wanted = model.eval()(input_ids=torch.tensor(ids)[None]).logits[0].numpy()
    engine = og.Model(str(graph))
    params = og.GeneratorParams(engine)
    params.set_search_options(max_length=128)
    generator = og.Generator(engine, params)
    found = [_append(generator, ids[:PROMPT])]
    found += [_append(generator, ids[at : at + 1]) for at in range(PROMPT, PROMPT + STEPS)]
    _rewind(generator, ids, PROMPT // 2)
    again = _append(generator, ids[PROMPT // 2 : PROMPT])
    wanted_last = wanted[PROMPT - 1 :]
    most = max(float(np.abs(one - other).max()) for one, other in zip(found, wanted_last, strict=True))
    most = max(most, float(np.abs(again - wanted[PROMPT - 1]).max()))
    return most / float(np.abs(wanted).max())


def _rewind(generator: Any, ids: Any, length: int) -> None:
    try:
        generator.rewind_to(length)
    except RuntimeError as error:  # a recurrent state
        assert "without a snapshot" in str(error)
        generator.rewind_to(0)
        generator.append_tokens(np.asarray(ids[:length], np.int32))
        generator.snapshot_state()
        generator.append_tokens(np.asarray(ids[PROMPT:], np.int32))
        generator.rewind_to(length)


def _append(generator: Any, ids: Any) -> Any:
    generator.append_tokens(np.asarray(ids, np.int32))
    logits = np.asarray(generator.get_logits())
    return logits.reshape(-1, logits.shape[-1])[-1]
