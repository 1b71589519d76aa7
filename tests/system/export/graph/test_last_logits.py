"""Tokens that are proposed and looked at together, on tiny float models: the same text as one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from edgeslm_export.graph.last_logits import ROWS, keep_last_logits

from edgeslm.engine.calls import Generate, Guide, Prompt, Sampling, Text, Turn
from edgeslm.engine.worker.decoder import Decoder
from tests.support.export.fixtures import Cases
from tests.support.export.tiny_adapters import CASES

pytestmark = pytest.mark.export
SPECULATING = [name for name in CASES if name != "gemma2"]
"""With windows that slide the runtime does not."""


COPY = Guide("regex", "(a1 b2 ?)+c")


def call(message: str, max_tokens: int = 40, **fields: Any) -> Generate:
    turns = (Turn("user", ("Go on. a1 b2 a1 b2 a1 b2 ", Text(message, cut=True))),)
    return Generate(Prompt(turns), max_tokens, **fields)


def logits(folder: Path, tokens: list[int]) -> Any:
    """Of each of the tokens, by the plain graph of a tiny model."""
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {"input_ids": np.array([tokens], np.int64)}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            shape = [size if isinstance(size, int) else 0 for size in value.shape]
            feeds[value.name] = np.zeros([1, *shape[1:2], 0, shape[3] or 16], np.float32)
    feeds["attention_mask"] = np.ones((1, len(tokens)), np.int64)
    return session.run(["logits"], feeds)[0][0]


@pytest.mark.parametrize("name", SPECULATING)
def test_the_last_few_tokens_have_logits_and_the_others_zeros(name: str, cases: Cases) -> None:
    tokens = list(b"the pump runs hot and loud tonight")
    folder = cases / name / "base"
    found = logits(folder, tokens)
    assert len(found) == len(tokens)
    assert not found[:-ROWS].any()
    for missing in range(ROWS):
        alone = logits(folder, tokens[: len(tokens) - missing])[-1]
        assert np.abs(found[-1 - missing] - alone).max() < 1e-4
    assert len(logits(folder, tokens[:3])) == 3


@pytest.mark.parametrize("name", SPECULATING)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"guide": Guide("json_schema", '{"type": "object", "properties": {"speed": {"type": "integer"}}}')},
        {"guide": COPY, "sampling": Sampling(repetition_penalty=1.3)},
        {"guide": COPY, "stop": ("b2",)},
        {"guide": COPY, "max_tokens": 1},
        {"guide": COPY, "max_tokens": 7},
        {"guide": COPY},
    ],
    ids=["free", "schema", "penalty", "stop", "one token", "few tokens", "copied"],
)
def test_what_is_proposed_changes_no_text(name: str, fields: dict[str, Any], cases: Cases) -> None:
    """Twice each: the second time the slot is rewound, with what was proposed behind it."""
    decoder = Decoder(cases / name / "base", 1)
    try:
        assert decoder._drafts
        written = [decoder.generate(call(message, **fields)) for message in ("a1", "a1 b2", "a1")]
        decoder.forget()
        decoder._drafts = 0
        alone = [decoder.generate(call(message, **fields)) for message in ("a1", "a1 b2", "a1")]
        for one, other in zip(written, alone, strict=True):
            assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
            assert one.cost.completion_tokens == other.cost.completion_tokens
    finally:
        decoder.close()


def test_a_prompt_that_fills_the_context_is_gone_on_with_to_its_end(cases: Cases) -> None:
    """Where fewer tokens fit than could be proposed."""
    decoder = Decoder(cases / "llama" / "base", 1)
    try:
        room = decoder.context_length
        for max_tokens in (1, 2, 7, 20):
            asked = call("a1 b2 " * room)
            cut = Generate(Prompt(asked.prompt.turns, overflow="tail"), max_tokens, guide=COPY)
            output = decoder.generate(cut)
            assert output.cost.prompt_tokens + max_tokens == room
            assert output.cost.completion_tokens <= max_tokens
    finally:
        decoder.close()


def test_a_window_that_slides_is_left_as_it_is(cases: Cases) -> None:
    decoder = Decoder(cases / "gemma2" / "base", 1)
    try:
        assert decoder._drafts == 0
        assert decoder.generate(call("a1")).cost.completion_tokens
    finally:
        decoder.close()


def test_a_graph_whose_head_is_not_pruned_is_left_as_it_is(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Identity", ["input_ids"], ["logits"])
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("input_ids", "logits")]
    graph = onnx.helper.make_graph([node], "plain", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    (tmp_path / "genai_config.json").write_text('{"model": {"decoder": {}, "vocab_size": 9}}')
    before = (tmp_path / "model.onnx").read_bytes()
    assert not keep_last_logits(tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == before
