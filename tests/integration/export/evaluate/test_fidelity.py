"""The figures of the comparison, against the textbook; and that reading every position changes no logits."""

from __future__ import annotations

import math
import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the inference library is imported

import numpy as np
import numpy.typing as npt
import pytest
from edgeslm_export.evaluate.fidelity import Comparison
from edgeslm_export.graph.last_logits import compute_every_token, widen_head
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from scipy.special import log_softmax
from scipy.stats import entropy

Array = npt.NDArray[np.floating[Any]]


def _pair(tokens: int, vocabulary: int, noise: float, seed: int) -> tuple[Array, Array, list[int]]:
    random = np.random.default_rng(seed)
    reference = (random.standard_normal((tokens, vocabulary)) * 3).astype(np.float16)
    logits = reference.astype(np.float32) + random.standard_normal(reference.shape).astype(np.float32) * noise
    return reference, logits, random.integers(0, vocabulary, tokens).tolist()


def _expected(pairs: list[tuple[Array, Array, list[int]]]) -> dict[str, Any]:
    """The same figures by scipy."""
    divergences, same, ours, theirs = [], [], [], []
    for reference, logits, tokens in pairs:
        ps = log_softmax(reference.astype(np.float64), axis=1)
        qs = log_softmax(logits.astype(np.float64), axis=1)
        divergences += entropy(np.exp(ps), np.exp(qs), axis=1).tolist()
        for at, (p, q) in enumerate(zip(ps, qs, strict=True)):
            same.append(int(p.argmax()) == int(q.argmax()))
            if at + 1 < len(tokens):
                theirs.append(-p[tokens[at + 1]])
                ours.append(-q[tokens[at + 1]])
    difference = np.array(ours) - np.array(theirs)
    ratio = math.exp(np.mean(ours)) / math.exp(np.mean(theirs))
    return {
        "tokens": len(divergences),
        "kl_mean": np.mean(divergences),
        "kl_p999": np.quantile(divergences, 0.999),
        "same_top1": np.mean(same),
        "perplexity": math.exp(np.mean(ours)),
        "perplexity_ratio": ratio,
        "perplexity_ratio_se": ratio * difference.std(ddof=1) / math.sqrt(len(difference)),
    }


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([2, 7, 255, 256, 257, 520]), min_size=1, max_size=3),
    st.sampled_from([2, 50]),
    st.floats(0, 2),
    st.integers(0, 99),
)
def test_the_figures_are_those_of_the_textbook(
    lengths: list[int], vocabulary: int, noise: float, seed: int
) -> None:
    lengths = [max(length, 3) for length in lengths]  # of two tokens only one difference, without a deviation
    pairs = [_pair(length, vocabulary, noise, seed + at) for at, length in enumerate(lengths)]
    comparison = Comparison()
    for pair in pairs:
        comparison.add(*pair)
    figures, expected = comparison.figures(), _expected(pairs)
    assert figures.keys() == expected.keys()
    for name, value in figures.items():
        assert value == pytest.approx(expected[name], abs=6e-4, rel=1e-4), name


def test_a_model_compared_with_itself_does_not_diverge() -> None:
    reference, _, tokens = _pair(300, 40, 0, 1)
    comparison = Comparison()
    comparison.add(reference, reference.astype(np.float32), tokens)
    figures = comparison.figures()
    assert (figures["kl_mean"], figures["kl_p999"], figures["same_top1"]) == (0, 0, 1)
    assert (figures["perplexity_ratio"], figures["perplexity_ratio_se"]) == (1, 0)


def test_a_constant_added_to_the_logits_and_large_ones_change_nothing() -> None:
    reference, logits, tokens = _pair(50, 40, 0.5, 1)
    plain, shifted = Comparison(), Comparison()
    plain.add(reference, logits, tokens)
    shifted.add(reference, logits.astype(np.float64) + 5000, tokens)
    assert shifted.figures() == plain.figures()


def _pruned_head(pruned: bool) -> Any:
    """A head as the builder writes it: ``prune_lm_head`` puts a Gather and an Unsqueeze before it."""
    nodes = []
    source = "hidden"
    if pruned:
        gather, widen = {"axis": 1, "name": "/lm_head/prune/Gather"}, {"name": "/lm_head/prune/Unsqueeze"}
        between, source = "/lm_head/prune/g", "/lm_head/prune/u"
        nodes.append(helper.make_node("Gather", ["hidden", "last"], [between], **gather))
        nodes.append(helper.make_node("Unsqueeze", [between, "one"], [source], **widen))
    nodes.append(helper.make_node("MatMul", [source, "weights"], ["logits"], name="/lm_head/MatMul"))
    shape = ["batch", 1 if pruned else "sequence_length", 5]
    weights = np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["batch", "sequence_length", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("last", TensorProto.INT64, [], [-1]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("weights", TensorProto.FLOAT, [8, 5], weights.flatten()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _run(model: Any, hidden: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: Array = session.run(None, {"hidden": hidden})[0]
    return logits


@pytest.mark.parametrize("head", ["plain", "pruned", "widened"])
def test_a_head_of_any_form_gives_every_position_and_the_same_last_one(head: str) -> None:
    hidden = np.random.default_rng(2).standard_normal((1, 16, 8)).astype(np.float32)
    model = _pruned_head(head != "plain")
    expected = _run(_pruned_head(False), hidden)
    assert head != "widened" or widen_head(model.graph)
    given = _run(model, hidden)
    assert np.allclose(given[:, -1], expected[:, -1], atol=1e-6)
    compute_every_token(model.graph)
    assert np.allclose(_run(model, hidden), expected, atol=1e-6)
