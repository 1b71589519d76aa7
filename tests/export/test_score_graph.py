"""Labels in one pass on tiny float models of each family: the same numbers as one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from edgeslm_export.score_graph import write_score_graph

from edgeslm.bundle import load_bundle
from edgeslm.engine.calls import Prompt, Score, Text, Turn
from edgeslm.engine.decoder import Decoder
from edgeslm.engine.labels import make_tree
from edgeslm.engine.scorer import PIECE, Scorer
from edgeslm.errors import Cancelled
from tests.export.conftest import Cases
from tests.export.tiny_adapters import CASES

pytestmark = pytest.mark.export
LABELS = ("alarm", "alert", "all fine", "all", "ok", "okay", "oil leak", "oil low")
BRANCHING = [name for name in CASES if name != "gemma2"]
"""Gemma-2's layers look through a window of neighbours."""


@contextmanager
def loaded(base: Path) -> Iterator[Decoder]:
    decoder = Decoder(base, 1)
    try:
        yield decoder
    finally:
        decoder.close()


def prompt(message: str) -> Prompt:
    return Prompt((Turn("user", ("Which label fits?\n", Text(message, cut=True))),))


def scorer_of(decoder: Decoder) -> Scorer:
    found = decoder._find_scorer()
    assert found is not None
    return found


def one_by_one(decoder: Decoder, message: str) -> npt.NDArray[np.float64]:
    ids, tree = decoder._chat.encode(prompt(message), 500).ids, decoder._tree(LABELS)
    return np.array(decoder._walk_all(ids, tree, Score(prompt(message), LABELS), lambda: False))


def in_one_pass(decoder: Decoder, messages: Sequence[str]) -> npt.NDArray[np.float64]:
    encoded = [decoder._chat.encode(prompt(message), 500) for message in messages]
    return scorer_of(decoder).score(encoded, decoder._tree(LABELS), len(LABELS))


@pytest.mark.parametrize("name", BRANCHING)
def test_labels_in_one_pass_have_the_probabilities_of_one_by_one(name: str, cases: Cases) -> None:
    with loaded(cases / name / "base") as decoder:
        for message in ("the pump is hot", "x", "valve " * PIECE):
            expected, found = one_by_one(decoder, message), in_one_pass(decoder, [message])[0]
            assert np.abs(found - expected).max() < 1e-3
            assert np.exp(found).sum() == pytest.approx(1)


def test_several_messages_in_one_pass_have_the_probabilities_of_each(cases: Cases) -> None:
    messages = ["the pump is hot", "x", "a leak below press 4", "the pump"]
    with loaded(cases / "llama" / "base") as decoder:
        together = in_one_pass(decoder, messages)
        for message, found in zip(messages, together, strict=True):
            assert np.abs(found - in_one_pass(decoder, [message])[0]).max() < 1e-3


def test_the_engine_scores_branching_labels_in_one_pass_and_others_by_walking(cases: Cases) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        decoder.score(Score(prompt("hot"), ("yes", "no")))
        assert (len(decoder._lanes), decoder._scorer) == (1, None)
        decoder.forget()
        output = decoder.score(Score(prompt("hot"), LABELS))
        assert not decoder._lanes
        assert len(scorer_of(decoder)._kept) == 1
        assert sum(output.probabilities) == pytest.approx(1)


def test_a_window_of_neighbours_is_walked(cases: Cases) -> None:
    """A branch would push the message out of the window, or stand in it for what it doesn't follow."""
    base = cases / "gemma2" / "base"
    assert load_bundle(base).manifest.graphs.score is None
    with loaded(base) as decoder:
        assert decoder._find_scorer() is None
        assert sum(decoder.score(Score(prompt("hot"), LABELS)).probabilities) == pytest.approx(1)


def test_a_head_that_is_not_pruned_gets_no_graph(cases: Cases, tmp_path: Path) -> None:
    graph = onnx.load(cases / "llama" / "base" / "model.onnx", load_external_data=False)
    for node in graph.graph.node:
        node.name = node.name.replace("/lm_head/prune/", "/lm_head/other/")
    onnx.save(graph, tmp_path / "model.onnx")
    assert not write_score_graph(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_damaged_score_graph_is_no_reason_to_score_nothing(
    cases: Cases, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        monkeypatch.setattr("edgeslm.engine.scorer.ort.InferenceSession", None)
        output = decoder.score(Score(prompt("hot"), LABELS))
        assert sum(output.probabilities) == pytest.approx(1)
        decoder.score(Score(prompt("hot"), LABELS))
        assert caplog.text.count("labels are scored one after the other") == 1


def test_without_room_for_the_second_graph_labels_are_walked(
    cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        with monkeypatch.context() as full:
            full.setattr("edgeslm.engine.room._free", lambda root: 0.0)
            assert decoder._find_scorer() is None
        assert decoder._find_scorer() is not None  # there is room again


def test_a_long_message_can_be_given_up(cases: Cases) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with loaded(cases / "llama" / "base") as decoder:
        encoded = decoder._chat.encode(prompt("valve " * 70), 500)
        with pytest.raises(Cancelled):
            scorer_of(decoder).score([encoded], decoder._tree(LABELS), len(LABELS), cancelled)


def test_what_is_kept_of_beginnings_has_a_limit(cases: Cases) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        graph = decoder.bundle.path / str(decoder.bundle.manifest.graphs.score)
        scorer = Scorer(graph, decoder._settings, 1, kept_bytes=40 * decoder_bytes(decoder))
        tree = make_tree([decoder._chat.encode_text(label) for label in LABELS])
        for number in range(4):
            asked = Prompt((Turn("user", (f"Question {number}?\n", Text("hot", cut=True))),))
            scorer.score([decoder._chat.encode(asked, 500)], tree, len(LABELS))
            assert len(scorer._kept) <= 2
        scorer.forget()
        assert not scorer._kept


def decoder_bytes(decoder: Decoder) -> int:
    """Of a token in the cache, as the graph has it."""
    sizes = decoder._settings["decoder"]
    return int(8 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * sizes["head_size"])
