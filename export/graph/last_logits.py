"""Last logits: makes a decoder's graph compute the logits of its last few tokens, for speculative decoding.

onnxruntime-genai's n-gram speculation (prompt lookup, Saxena 2023, github.com/apoorvumang/
prompt-lookup-decoding) drafts the tokens that followed an earlier occurrence of the last n-gram, and accepts
the draft tokens that the model confirms. Speculation needs the logits of each draft token, from a graph that
declares logits for every token. Computing the logits of all tokens would take a third of a prompt's time. So
everything after the last layer's attention (the layer's matrix products and the logits) is computed only for
the last ``ROWS`` tokens. The other tokens get logits of zero, which nothing reads. Works on graphs that the
builder made with ``prune_lm_head``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from edgeslm_export.graph.onnx_edit import replace
from edgeslm_export.graph.prune_lm_head import cut_earlier, pruned_values, rename_tokens, replace_pruning
from edgeslm_export.graph.recurrent_state import state_inputs

ROWS: Final = 9
"""Number of tokens for which a pass computes logits: a token and eight draft tokens after it."""
MOST_VOCABULARY: Final = 160_000
"""Maximum vocabulary size for which logits are padded. Padding with zeros for 64 tokens takes 41 MB at this
vocabulary size. Estimates of the model's memory ignore the padding, so larger vocabularies would make them
wrong."""
_NAME: Final = "/lm_head/last"
_BOUNDS: Final = {"first": -ROWS, "end": 1 << 62, "axis": 1, "none": 0}


def keep_last_logits(folder: Path) -> bool:
    """Makes a bundle's plain graph compute the last logits, and sets ``max_draft_tokens`` in
    ``genai_config.json``.

    :return: false, with nothing changed, if the head isn't pruned, the vocabulary is too large, or the KV
        cache is a sliding window or has a recurrent state, for which the runtime supports no speculation.
    """
    import onnx

    file = folder / "genai_config.json"
    config = json.loads(file.read_text("utf-8"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    settings = config.get("model", {})
    if state_inputs(model.graph):
        return False
    wants_too_much = settings.get("vocab_size", MOST_VOCABULARY + 1) > MOST_VOCABULARY
    if wants_too_much or settings["decoder"].get("sliding_window") or not widen_head(model.graph):
        return False
    onnx.save(model, folder / "model.onnx")
    config["speculative"] = {"max_draft_tokens": ROWS - 1}
    file.write_text(json.dumps(config, indent=4), "utf-8")
    return True


def widen_head(graph: Any) -> bool:
    """Makes the head compute the last ``ROWS`` tokens, in place. :return: false if the head isn't pruned."""
    from onnx import helper

    kept, few = f"{_NAME}/Slice/output_0", f"{_NAME}/logits"
    if (hidden := pruned_values(graph)) is None:
        return False

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{_NAME}/{kind}/{output}", **attributes)

    bounds = {name: f"{_NAME}/{name}" for name in _BOUNDS}
    # Computed from a shape, not constants: another constant would change the order of prepacked weights, and
    # the graph that scores labels couldn't share the prepacked file.
    makers = [
        node("Shape", [hidden], f"{_NAME}/one", start=0, end=1),
        *(
            node("ConstantOfShape", [f"{_NAME}/one"], bounds[name], value=_number(value))
            for name, value in _BOUNDS.items()
        ),
        node("Slice", [hidden, bounds["first"], bounds["end"], bounds["axis"]], kept),
    ]
    replace_pruning(graph, kept, "last", makers)
    for old in graph.node:
        old.output[:] = [few if output == "logits" else output for output in old.output]
    nodes = [
        node("Shape", [hidden], f"{_NAME}/all", start=1, end=2),
        node("Shape", [kept], f"{_NAME}/few", start=1, end=2),
        node("Sub", [f"{_NAME}/all", f"{_NAME}/few"], f"{_NAME}/missing"),
        node("Concat", [f"{_NAME}/missing", f"{_NAME}/none"], f"{_NAME}/pads", axis=0),
        node("Pad", [few, f"{_NAME}/pads", "", f"{_NAME}/axis"], "logits"),
    ]
    replace(graph, [*graph.node, *nodes])
    cut_earlier(graph, f"{_NAME}/Slice/{kept}")
    for value in graph.output:
        if value.name == "logits":
            value.type.tensor_type.shape.dim[1].dim_param = "sequence_length"
    return True


def compute_every_token(graph: Any) -> None:
    """Changes a plain graph in place, so that its head computes the logits of all tokens. The head of the
    given graph may compute one token (if it is pruned), the last ``ROWS`` tokens (after ``widen_head``) or
    already all tokens."""
    if (hidden := pruned_values(graph)) is not None:
        replace_pruning(graph, hidden, "sequence_length")
        return
    added = [node for node in graph.node if node.name.startswith(f"{_NAME}/")]
    if not added:
        return
    instead = {node.output[0]: node.input[0] for node in added if node.op_type == "Slice"}
    instead[f"{_NAME}/logits"] = "logits"
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [instead.get(value, value) for value in values]
    replace(graph, [node for node in graph.node if not node.name.startswith(f"{_NAME}/")])
    rename_tokens(graph, "sequence_length")


def _number(value: int) -> Any:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array([value], np.int64))
