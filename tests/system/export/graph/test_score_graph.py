"""Labels in one pass on tiny float models of each family: the same numbers as one after the other."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
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
from edgeslm.engine.worker.labels import Branch, make_tree
from edgeslm.engine.worker.one_pass import MOST_ROWS, MOST_TOKENS, fits
from edgeslm.engine.worker.prefix_cache import FOLDER
from edgeslm.engine.worker.prepared import Prepared
from edgeslm.engine.worker.prompt import PIECE, ChatTokenizer, Encoded
from edgeslm.engine.worker.scorer import PassRows, Scorer
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
def loaded(base: Path, *, prepared: bool = False) -> Iterator[Decoder]:
    """:param prepared: as if prepacked, with the bundle's own graphs."""
    graphs = load_bundle(base).manifest.graphs
    prepacked = Prepared(base / "model.onnx", 1, base / str(graphs.score)) if prepared else None
    decoder = Decoder(base, 1, prepared=prepacked)
    try:
        yield decoder
    finally:
        decoder.close()


def prompt(message: str) -> Prompt:
    return Prompt((Turn("user", ("Which label fits?\n", Text(message, cut=True))),))


def settings_of(base: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((base / "genai_config.json").read_text("utf-8"))["model"]
    return settings


def scorer_of(base: Path, **how: Any) -> Scorer:
    """The scorer of a bundle."""
    settings = settings_of(base)
    end = settings["eos_token_id"]
    return Scorer(base / GRAPH, settings, frozenset(end if isinstance(end, list) else [end]), 1, **how)


class Case:
    """Messages and labels, encoded for a bundle."""

    def __init__(self, base: Path) -> None:
        self.chat = ChatTokenizer(base)
        self.tree = self.tree_of(LABELS)

    def tree_of(self, labels: Sequence[str]) -> Branch:
        return make_tree([self.chat.encode_text(label) for label in labels])

    def encode(self, message: str) -> Encoded:
        return self.chat.encode(prompt(message), 500)

    def score(self, scorer: Scorer, message: str) -> npt.NDArray[np.float64]:
        """Log-probabilities, in one pass."""
        found = scorer.score(self.encode(message), self.tree)
        return np.array([found[number] for number in range(len(LABELS))])


class Asked:
    """Counts how often it is asked whether the call is cancelled: before each step."""

    def __init__(self, until: int | None = None) -> None:
        self.times, self._until = 0, until

    def __call__(self) -> bool:
        self.times += 1
        return self._until is not None and self.times > self._until


def steps(decoder: Decoder) -> tuple[bool, bool]:
    """Whether a walk's cache is kept, and whether the score graph is loaded."""
    return len(decoder._slots) > 0, decoder._one_pass.scorer is not None


@pytest.mark.parametrize("name", BRANCHING)
def test_labels_in_one_pass_have_the_probabilities_of_one_by_one(name: str, cases: Cases) -> None:
    base = cases / name / "base"
    with loaded(base) as decoder:
        scorer, case = scorer_of(base), Case(base)
        for message in ("the pump is hot", "x", "", "valve " * PIECE):
            expected = np.log(decoder.score(Score(prompt(message), LABELS)).probabilities)
            found = case.score(scorer, message)
            assert np.abs(found - expected).max() < 1e-3
            assert np.exp(found).sum() == pytest.approx(1)


def test_the_engine_scores_branching_labels_in_one_pass_once_it_is_prepared(cases: Cases) -> None:
    base, call = cases / "llama" / "base", Score(prompt("hot"), LABELS)
    with loaded(base) as decoder:
        walked = decoder.score(call).probabilities
        assert steps(decoder) == (True, False)
    with loaded(base, prepared=True) as decoder:
        assert decoder.score(call).probabilities == pytest.approx(walked, abs=1e-4)
        assert steps(decoder) == (False, True)


def test_labels_that_differ_at_once_are_walked_until_its_graph_is_there(cases: Cases) -> None:
    flat = Score(prompt("hot"), ("yes", "no"))
    with loaded(cases / "llama" / "base", prepared=True) as decoder:
        walked = decoder.score(flat).probabilities
        assert loading() == []  # the first message after a start has the processors alone
        assert steps(decoder) == (True, False)
        decoder.score(flat)
        for thread in loading():
            thread.join()
        decoder.forget()
        assert decoder.score(flat).probabilities == pytest.approx(walked, abs=1e-4)
        assert steps(decoder) == (False, True)


def loading() -> list[threading.Thread]:
    """Threads that load a score graph."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("score graph")]


def test_a_task_that_is_made_ready_has_its_graph_loaded_and_its_beginning_kept(
    cases: Cases, tmp_path: Path
) -> None:
    shutil.copytree(cases / "llama" / "base", tmp_path / "base")
    with loaded(tmp_path / "base", prepared=True) as decoder:
        decoder.score(Score(prompt("hot"), ("yes", "no"), only_read=True))
        assert steps(decoder) == (False, True)
        assert len(list((tmp_path / "base" / FOLDER).iterdir())) == 1


def test_logits_of_some_tokens_are_those_that_all_have(by_row_base: Path) -> None:
    """Rounded alike: what differs is the order of sums."""
    session = onnxruntime.InferenceSession(by_row_base / GRAPH, providers=["CPUExecutionProvider"])
    rows = PassRows(0)
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
    case = Case(by_row_base)
    found, expected = (case.score(scorer_of(base), "hot") for base in (tmp_path / "base", by_row_base))
    assert np.abs(found - expected).max() < 0.05


def test_a_pass_of_too_many_branches_is_walked(cases: Cases) -> None:
    """It can't be given up on the way, and 3,800 tokens of branches took a minute."""
    stem = "a very long beginning that all of these labels have in common, "
    labels = tuple(f"{number} {stem}{end}" for number in range(4) for end in ("left", "right"))
    base = cases / "llama" / "base"
    assert Case(base).tree_of(labels).rows() > MOST_ROWS
    with loaded(base, prepared=True) as decoder:
        assert sum(decoder.score(Score(prompt("hot"), labels)).probabilities) == pytest.approx(1)
        assert steps(decoder) == (True, False)


@pytest.mark.parametrize("overflow", ["head", "tail"])
def test_a_message_that_is_cut_to_the_context_is_scored(overflow: Overflow, cases: Cases) -> None:
    """The kernel counts branches as tokens behind it, and refused the pass."""
    long = Prompt((Turn("user", (Text("valve " * 500, cut=True),)),), overflow)
    with loaded(cases / "llama" / "base", prepared=True) as decoder:
        output = decoder.score(Score(long, LABELS))
        assert output.truncated is not None
        assert sum(output.probabilities) == pytest.approx(1)


def test_a_long_message_is_walked(cases: Cases) -> None:
    tree = Case(cases / "llama" / "base").tree
    assert not fits(Encoded([1] * (MOST_TOKENS + 20), None, 10), tree, 10_000)
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


def test_what_the_runtime_refuses_is_told_as_it_is_elsewhere(cases: Cases) -> None:
    base = cases / "llama" / "base"
    scorer = scorer_of(base)
    scorer._session = FakeSession()
    with pytest.raises(NoMemory, match="could not allocate memory"):
        Case(base).score(scorer, "hot")


class FakeSession:
    """Has no memory left."""

    def run_with_ort_values(self, *_: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 99")


def test_a_call_that_was_cancelled_before_is_not_answered(cases: Cases) -> None:
    base = cases / "llama" / "base"
    scorer, case = scorer_of(base), Case(base)
    encoded = case.encode("hot")
    scorer.score(encoded, case.tree)  # its beginning is kept now
    with pytest.raises(Cancelled):
        scorer.score(encoded, case.tree, lambda: True)


def test_what_a_task_begins_with_is_read_once_for_all_starts(cases: Cases, tmp_path: Path) -> None:
    base = cases / "llama" / "base"
    case = Case(base)
    encoded, kept = case.encode("hot"), tmp_path / "kept"
    first = scorer_of(base, on_disk=kept)
    expected = first.score(encoded, case.tree)
    assert not kept.exists()  # it may be a sender's
    first.forget()
    first.score(encoded, case.tree, keeps=True)
    assert len(list(kept.iterdir())) == 1
    second, asked = scorer_of(base, on_disk=kept), Asked()
    assert second.score(encoded, case.tree, asked) == expected
    assert asked.times == 1  # before the message, and not before its beginning


def test_a_long_message_can_be_given_up(cases: Cases) -> None:
    base = cases / "llama" / "base"
    case = Case(base)
    with pytest.raises(Cancelled):
        scorer_of(base).score(case.encode("valve " * 70), case.tree, Asked(until=3))


def test_what_is_kept_of_beginnings_has_a_limit(cases: Cases) -> None:
    base = cases / "llama" / "base"
    case = Case(base)
    scorer = scorer_of(base, kept_bytes=40 * token_bytes(base))

    def is_kept(number: int) -> bool:
        """Whether this beginning needs no pass; it is kept from then on."""
        question = Prompt((Turn("user", (f"Question {number}?\n", Text("hot", cut=True))),))
        scorer.score(case.chat.encode(question, 500), case.tree, asked := Asked())
        return asked.times == 1

    assert [is_kept(number) for number in range(4)] == [False] * 4
    assert is_kept(3)
    assert not is_kept(0), "the oldest is dropped"
    scorer.forget()
    assert not is_kept(0)


def token_bytes(base: Path) -> int:
    """Of a token in the cache, as the graph has it."""
    sizes = settings_of(base)["decoder"]
    return int(8 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * sizes["head_size"])
