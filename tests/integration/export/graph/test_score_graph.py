"""Labels in one pass on tiny float models of each family: the same numbers as one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from edgeslm_export.graph.onnx_edit import replace
from edgeslm_export.graph.score_graph import GRAPH, WORDS, write_score_graph

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Overflow, Prompt, Score, Text, Turn
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.labels import make_tree
from edgeslm.engine.worker.one_pass import MOST_ROWS, MOST_TOKENS, fits
from edgeslm.engine.worker.prefix_cache import FOLDER
from edgeslm.engine.worker.prepared import Prepared
from edgeslm.engine.worker.prompt import PIECE, Encoded
from edgeslm.engine.worker.scorer import Scorer, _Rows
from edgeslm.errors import Cancelled, NoMemory
from tests.support.export.fixtures import Cases
from tests.support.export.tiny_adapters import CASES
from tests.support.export.tiny_models import SHAPE

pytestmark = pytest.mark.export
HEAD_SIZE = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
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
    graph = decoder.bundle.path / str(decoder.bundle.manifest.graphs.score)
    return Scorer(graph, decoder._settings, decoder._end_ids, 1)


def one_by_one(decoder: Decoder, message: str) -> npt.NDArray[np.float64]:
    ids, tree = decoder._chat.encode(prompt(message), 500).ids, decoder._tree(LABELS)
    return np.array(decoder._score_branches(ids, tree, Score(prompt(message), LABELS), lambda: False))


def in_one_pass(decoder: Decoder, scorer: Scorer, message: str) -> npt.NDArray[np.float64]:
    found = scorer.score(decoder._chat.encode(prompt(message), 500), decoder._tree(LABELS))
    return np.array([found[number] for number in range(len(LABELS))])


@pytest.mark.parametrize("name", BRANCHING)
def test_labels_in_one_pass_have_the_probabilities_of_one_by_one(name: str, cases: Cases) -> None:
    with loaded(cases / name / "base") as decoder:
        scorer = scorer_of(decoder)
        for message in ("the pump is hot", "x", "", "valve " * PIECE):
            expected, found = one_by_one(decoder, message), in_one_pass(decoder, scorer, message)
            assert np.abs(found - expected).max() < 1e-3
            assert np.exp(found).sum() == pytest.approx(1)


def prepare_for(decoder: Decoder) -> None:
    """As if the bundle had been prepared, without laying anything out."""
    graph = decoder.bundle.path / str(decoder.bundle.manifest.graphs.score)
    decoder._prepared = Prepared(decoder.bundle.path / "model.onnx", 1, graph)


def test_the_engine_scores_branching_labels_in_one_pass_once_it_is_prepared(cases: Cases) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        walked = decoder.score(Score(prompt("hot"), LABELS)).probabilities
        assert (len(decoder._slots), decoder._one_pass.scorer) == (1, None)
        prepare_for(decoder)
        decoder.forget()
        assert decoder.score(Score(prompt("hot"), LABELS)).probabilities == pytest.approx(walked, abs=1e-4)
        assert not decoder._slots
        assert decoder._one_pass.scorer is not None


def coming(decoder: Decoder) -> Any:
    return decoder._one_pass._loading


def test_labels_that_differ_at_once_are_walked_until_its_graph_is_there(cases: Cases) -> None:
    flat = Score(prompt("hot"), ("yes", "no"))
    with loaded(cases / "llama" / "base") as decoder:
        prepare_for(decoder)
        walked = decoder.score(flat).probabilities
        assert coming(decoder) is None  # the first message after a start has the processors alone
        decoder.score(flat)
        wait([coming(decoder)])
        decoder.forget()
        assert decoder.score(flat).probabilities == pytest.approx(walked, abs=1e-4)
        assert not decoder._slots


def test_a_task_that_is_made_ready_has_its_graph_loaded_and_its_beginning_kept(
    cases: Cases, tmp_path: Path
) -> None:
    shutil.copytree(cases / "llama" / "base", tmp_path / "base")
    with loaded(tmp_path / "base") as decoder:
        prepare_for(decoder)
        decoder.score(Score(prompt("hot"), ("yes", "no"), only_read=True))
        assert decoder._one_pass.scorer is not None
        assert len(list((tmp_path / "base" / FOLDER).iterdir())) == 1


def test_logits_of_some_tokens_are_those_that_all_have(by_row_base: Path) -> None:
    """Rounded alike: what differs is the order of sums."""
    session = onnxruntime.InferenceSession(by_row_base / GRAPH, providers=["CPUExecutionProvider"])
    rows = _Rows(0)
    rows.add_tokens(list(b"the pump is hot"))
    rows.wanted = [14, 3]
    feeds = rows.inputs()
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, SHAPE["num_key_value_heads"], 0, HEAD_SIZE), np.float32)
    words = [7, 200, 9]
    some, every = (
        session.run(["logits"], {**feeds, WORDS: np.array(asked, np.int64)})[0] for asked in (words, [])
    )
    assert every.shape[:2] == some.shape[:2] == (1, 2)
    assert some.shape[2] == 3
    assert np.abs(some - every[:, :, words]).max() < 1e-4 * np.abs(every).max()


def test_bundles_whose_head_gives_all_logits_are_scored_too(by_row_base: Path, tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    shutil.copytree(by_row_base, tmp_path / "base")
    model = onnx.load(tmp_path / "base" / GRAPH, load_external_data=False)
    (choice,) = (node for node in model.graph.node if node.name == "/lm_head/words")
    (every,) = (one.g for one in choice.attribute if one.g.name == "vocabulary")
    (head,) = every.node
    head.output[0] = "logits"
    nodes = [node for node in model.graph.node if not node.name.startswith("/lm_head/words")]
    replace(model.graph, [*nodes, head])
    del model.graph.input[[value.name for value in model.graph.input].index(WORDS)]
    onnx.save(model, tmp_path / "base" / GRAPH)
    with loaded(by_row_base) as decoder:
        earlier = Scorer(tmp_path / "base" / GRAPH, decoder._settings, decoder._end_ids, 1)
        found, expected = (in_one_pass(decoder, scorer, "hot") for scorer in (earlier, scorer_of(decoder)))
        assert np.abs(found - expected).max() < 0.05


def test_a_pass_of_too_many_branches_is_walked(cases: Cases) -> None:
    """It can't be given up on the way, and 3,800 tokens of branches took a minute."""
    stem = "a very long beginning that all of these labels have in common, "
    labels = tuple(f"{number} {stem}{end}" for number in range(4) for end in ("left", "right"))
    with loaded(cases / "llama" / "base") as decoder:
        prepare_for(decoder)
        assert decoder._tree(labels).rows() > MOST_ROWS
        assert sum(decoder.score(Score(prompt("hot"), labels)).probabilities) == pytest.approx(1)
        assert decoder._one_pass.scorer is None


@pytest.mark.parametrize("overflow", ["head", "tail"])
def test_a_message_that_is_cut_to_the_context_is_scored(overflow: Overflow, cases: Cases) -> None:
    """The kernel counts branches as tokens behind it, and refused the pass."""
    long = Prompt((Turn("user", (Text("valve " * 500, cut=True),)),), overflow)
    with loaded(cases / "llama" / "base") as decoder:
        prepare_for(decoder)
        output = decoder.score(Score(long, LABELS))
        assert output.truncated is not None
        assert sum(output.probabilities) == pytest.approx(1)


def test_a_long_message_is_walked(cases: Cases) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        tree = decoder._tree(LABELS)
        encoded = Encoded([1] * (MOST_TOKENS + 20), None, 10)
        assert not fits(encoded, tree, 10_000)
        assert fits(Encoded([1] * MOST_TOKENS, None, 10), tree, 10_000)


def test_a_window_of_neighbours_has_no_such_graph(cases: Cases) -> None:
    """A branch would push the message out of the window, or stand in it for what it doesn't follow."""
    base = cases / "gemma2" / "base"
    assert load_bundle(base).manifest.graphs.score is None
    assert not (base / "model_score.onnx").exists()


def test_a_head_that_is_not_pruned_gets_no_graph(cases: Cases, tmp_path: Path) -> None:
    graph = onnx.load(cases / "llama" / "base" / "model.onnx", load_external_data=False)
    for node in graph.graph.node:
        node.name = node.name.replace("/lm_head/prune/", "/lm_head/other/")
    onnx.save(graph, tmp_path / "model.onnx")
    assert not write_score_graph(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_what_the_runtime_refuses_is_told_as_it_is_elsewhere(
    cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        scorer = scorer_of(decoder)
        scorer._session = FakeSession()
        with pytest.raises(NoMemory, match="could not allocate memory"):
            in_one_pass(decoder, scorer, "hot")


class FakeSession:
    """Has no memory left."""

    def run_with_ort_values(self, *_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 99")


def test_a_call_that_was_cancelled_before_is_not_answered(cases: Cases) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        scorer, encoded = scorer_of(decoder), decoder._chat.encode(prompt("hot"), 500)
        scorer.score(encoded, decoder._tree(LABELS))  # its beginning is kept now
        with pytest.raises(Cancelled):
            scorer.score(encoded, decoder._tree(LABELS), lambda: True)


def test_what_a_task_begins_with_is_read_once_for_all_starts(cases: Cases, tmp_path: Path) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        graph = decoder.bundle.path / str(decoder.bundle.manifest.graphs.score)
        encoded, tree = decoder._chat.encode(prompt("hot"), 500), decoder._tree(LABELS)

        def start() -> Scorer:
            return Scorer(graph, decoder._settings, decoder._end_ids, 1, on_disk=tmp_path / "kept")

        first = start()
        expected = first.score(encoded, tree)
        assert not (tmp_path / "kept").exists()  # it may be a sender's
        first.forget()
        first.score(encoded, tree, keeps=True)
        assert len(list((tmp_path / "kept").iterdir())) == 1
        second = start()
        asked = 0

        def cancelled() -> bool:
            nonlocal asked
            asked += 1
            return False

        assert second.score(encoded, tree, cancelled) == expected
        assert asked == 1  # before the message, and not before its beginning


def test_a_long_message_can_be_given_up(cases: Cases) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with loaded(cases / "llama" / "base") as decoder:
        encoded = decoder._chat.encode(prompt("valve " * 70), 500)
        with pytest.raises(Cancelled):
            scorer_of(decoder).score(encoded, decoder._tree(LABELS), cancelled)


def test_what_is_kept_of_beginnings_has_a_limit(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded(cases / "llama" / "base") as decoder:
        monkeypatch.setattr("edgeslm.engine.worker.scorer.KEPT_BYTES", 40 * decoder_bytes(decoder))
        scorer = scorer_of(decoder)
        tree = make_tree([decoder._chat.encode_text(label) for label in LABELS])
        for number in range(4):
            asked = Prompt((Turn("user", (f"Question {number}?\n", Text("hot", cut=True))),))
            scorer.score(decoder._chat.encode(asked, 500), tree)
            assert len(scorer._kept) <= 2
        scorer.forget()
        assert not scorer._kept


def decoder_bytes(decoder: Decoder) -> int:
    """Of a token in the cache, as the graph has it."""
    sizes = decoder._settings["decoder"]
    return int(8 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * sizes["head_size"])
