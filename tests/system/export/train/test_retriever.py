"""An encoder taught to search: what is held against what, what is counted, and the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edgeslm_export.data.question_pairs import is_aside
from edgeslm_export.data.rows import QuestionRow
from edgeslm_export.graph.encoder_recipe import DEFAULT_RECIPE
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.retriever import answer_ranks, export_retriever, gather, make_chunks
from edgeslm_export.train.retriever_training import Sought
from edgeslm_export.train.spec import Budget

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import ExportError
from tests.support.export.questions import asked, questions

PRESS = "The press is oiled every week with grease."


def test_texts_are_gathered_by_source_with_their_questions() -> None:
    rows = [
        asked("how often?", PRESS, "every week", "press.md"),
        asked("with what?", PRESS, "grease", "press.md"),
        asked("by whom?", PRESS, None, "press.md"),
        asked("by whom?", f"{PRESS} Ann does it.", "Ann", "press.md"),
        QuestionRow(5, "Wear gloves.", "Care", "press.md"),
        asked("how loud?", "It is loud: 80 dB.", "80 dB", "other.md"),
    ]
    press, other = gather(rows)
    assert [text.questions for text in press] == [("how often?", "with what?"), ("by whom?",), ()]
    assert press[0].text == f"Care\n{PRESS}"
    assert press[0].kin == press[1].kin != press[2].kin, "what says the same isn't told apart"
    assert other[0].kin not in {text.kin for text in press}


def test_a_short_text_is_not_the_same_as_all_that_has_its_words() -> None:
    short = "See the notes on the press below."
    long = [
        "See the notes on how the press is oiled, below the table: every week, with grease, by hand.",
        "The notes on the press and its motor: it draws 40 A when it starts, see below for the fuse.",
    ]
    rows = [asked(f"what about {text[:20]}?", text, text[:3], "press.md") for text in (short, *long)]
    (texts,) = gather(rows)
    assert len({text.kin for text in texts}) == 3


def test_texts_that_answer_the_same_question_are_not_told_apart() -> None:
    first = asked("How often is it oiled?", PRESS, "every week", "press.md")
    again = asked("how often is it oiled?", "Grease comes on it weekly.", "weekly", "care.md")
    (one,), (other,) = gather([first, again])
    assert one.kin == other.kin


def test_a_chunk_is_of_one_source_and_has_questions() -> None:
    asked = [Sought(f"text {number}", ("a", "b", "c", "d", "e"), number) for number in range(11)]
    beside = [Sought(f"more {number}", (), 20 + number) for number in range(9)]
    chunks = make_chunks([[*asked, *beside], [Sought("lonely", ("a",), 40)], [Sought("unasked", (), 41)]])
    assert [len(chunk) for chunk in chunks] == [8 + 3, 3 + 3, 1]
    assert all(any(text.questions for text in chunk) for chunk in chunks)
    assert {len(text.questions) for chunk in chunks for text in chunk} == {0, 1, 4}
    assert {text.text for text in [*chunks[0], *chunks[1]] if text.questions} == {one.text for one in asked}


def test_a_question_s_rank_counts_what_says_other_things() -> None:
    texts = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0], [0.5, 0.5]])
    asked = np.array([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert answer_ranks(asked, texts, [7, 7, 4], [7, 7, 4, 5]).tolist() == [0, 2, 0]


@pytest.mark.export
def test_a_bundle_that_was_taught_to_search(encoders: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    origin = examine_local(encoders / "bge", "encoder")
    manifest, figures = export_retriever(origin, questions(60), out, DEFAULT_RECIPE, Budget())
    bundle = load_bundle(out)
    assert bundle.manifest.embeds
    assert figures["ms_per_text"] > 0
    assert (manifest.kind, manifest.name) == ("encoder", "bge-search")
    assert figures["before"]["questions"] == figures["after"]["questions"] > 0
    for of in (figures["before"], figures["after"]):
        assert 0 <= of["hit_1"] <= of["hit_3"] <= 1
    assert (out / "report.json").is_file()


@pytest.mark.export
def test_words_before_texts_that_it_was_not_taught_with_are_not_named(encoders: Path, tmp_path: Path) -> None:
    origin, said = examine_local(encoders / "e5", "encoder"), list[str]()
    rows = [row for row in questions(60) if not is_aside(row)]
    budget = Budget(announce=said.append)
    manifest, figures = export_retriever(origin, rows, tmp_path / "out", DEFAULT_RECIPE, budget)
    assert manifest.encoder is not None
    assert manifest.encoder.prompts is None
    assert (figures["before"], figures["after"]) == (None, None)
    assert "the gain of training isn't measured" in " ".join(said)


@pytest.mark.export
def test_few_questions_are_refused(tmp_path: Path, encoders: Path) -> None:
    origin = examine_local(encoders / "bge", "encoder")
    with pytest.raises(ExportError, match=r"There are 1\d answered questions"):
        export_retriever(origin, questions(19), tmp_path / "out", DEFAULT_RECIPE, Budget())
    assert not (tmp_path / "out").exists()
