"""Searching: what comes first and why, the figures beside it, filters, neighbours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.index.collection import Collection
from edgeslm.knowledge.index.queries import Filter, Found, Kept
from edgeslm.knowledge.index.search import Weights, fuse, neighbours, search
from tests.support.knowledge.collection_samples import TAG, hash_embed, make_document, make_origin

TEXTS = {
    "press.md": ("oil the press each week", "clean the press with a cloth", "stop the press when it smells"),
    "lathe.md": ("oil the lathe each day", "the spindle of the lathe is hot"),
    "logs/1": ("spindle 3 smells of burnt oil",),
}


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    with Collection(tmp_path / "kb", writes=True) as made:
        made.use_encoder(TAG)
        for number, (source, texts) in enumerate(TEXTS.items()):
            headings = [("Care", "Weekly") if place < 2 else ("Emergency",) for place in range(len(texts))]
            document, passages = make_document(source, *texts, title=source, headings=headings)
            made.put(document, passages, make_origin(mtime=float(number)), embed=hash_embed)
        yield made


def first(found: list[Found]) -> str:
    return found[0].text


@pytest.mark.parametrize("embed", [None, hash_embed])
def test_the_passage_that_answers_comes_first(collection: Collection, embed: object) -> None:
    assert first(search(collection, "the press smells", embed=hash_embed if embed else None)) == (
        "stop the press when it smells"
    )


def test_a_passage_is_found_with_where_it_stands(collection: Collection) -> None:
    found = search(collection, "clean cloth")[0]
    assert (found.source, found.heading) == ("press.md", "Care > Weekly")
    start = len(TEXTS["press.md"][0]) + 2
    assert (found.start, found.end) == (start, start + len(found.text))


def test_without_an_encoder_words_decide(collection: Collection) -> None:
    found = search(collection, "spindle")
    assert {one.text for one in found} == {"the spindle of the lathe is hot", "spindle 3 smells of burnt oil"}
    assert [one.cosine for one in found] == [None, None]


def test_meaning_finds_what_no_word_does(collection: Collection) -> None:
    """Here: the vector of a text that is handed over in the place of the question's."""
    (vector,) = hash_embed(["lathe.md Care > Weekly the spindle of the lathe is hot"])
    found = search(collection, "xyzzy", embed=lambda _: [vector])
    assert first(found) == "the spindle of the lathe is hot"
    assert (found[0].bm25, found[0].overlap) == (0.0, 0.0)


def test_no_more_than_wanted_comes_the_best_first(collection: Collection) -> None:
    found = search(collection, "oil the press", k=4, embed=hash_embed)
    scores = [one.score for one in found]
    assert len(found) == 4
    assert scores == sorted(scores, reverse=True)
    assert [one.margin for one in found[:3]] == pytest.approx([a - b for a, b in pairwise(scores)])
    assert len(search(collection, "oil the press", k=100, embed=hash_embed)) == 6


def test_overlap_is_the_share_of_the_question_s_words(collection: Collection) -> None:
    found = {one.text: one for one in search(collection, "oiled lathes", k=10)}
    assert found["oil the lathe each day"].overlap == pytest.approx(1.0)
    assert 0 < found["oil the press each week"].overlap < 1
    asked = {one.text: one for one in search(collection, "oiled lathes zebra", k=10)}
    assert asked["oil the lathe each day"].overlap < 0.8


def test_a_title_and_a_heading_are_searched_too(collection: Collection) -> None:
    assert first(search(collection, "emergency")) == "stop the press when it smells"
    assert {one.source for one in search(collection, "lathe.md")} >= {"lathe.md"}


@pytest.mark.parametrize("question", ["", "?!", "zebra", '" OR *'])
def test_a_question_without_words_finds_nothing_by_words(collection: Collection, question: str) -> None:
    assert search(collection, question) == []


def test_an_empty_collection_has_nothing(tmp_path: Path) -> None:
    with Collection(tmp_path / "kb", writes=True) as empty:
        assert search(empty, "oil") == []
        empty.use_encoder(TAG)
        assert search(empty, "oil", embed=hash_embed) == []
        document, passages = make_document("a.txt", "oil")
        empty.put(document, passages, make_origin(), embed=hash_embed)
        empty.remove("a.txt")
        assert search(empty, "oil", embed=hash_embed) == []


# --- filters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embed", [None, hash_embed])
@pytest.mark.parametrize(
    ("only", "sources"),
    [
        (Filter(), {"press.md", "lathe.md", "logs/1"}),
        (Filter(sources="*.md"), {"press.md", "lathe.md"}),
        (Filter(sources="logs/*"), {"logs/1"}),
        (Filter(sources="nothing*"), set()),
        (Filter(since=1.0), {"lathe.md", "logs/1"}),
        (Filter(until=1.0), {"press.md", "lathe.md"}),
        (Filter(sources="*.md", since=1.0, until=1.0), {"lathe.md"}),
    ],
)
def test_only_what_passes_the_filter_is_found(
    collection: Collection, embed: object, only: Filter, sources: set[str]
) -> None:
    found = search(collection, "oil", k=50, embed=hash_embed if embed else None, only=only)
    assert {one.source for one in found} == sources


@pytest.mark.parametrize("only", [Filter(), Filter(sources="*")])
def test_what_has_expired_is_not_found(collection: Collection, only: Filter) -> None:
    document, passages = make_document("logs/2", "oil on the floor")
    collection.put(document, passages, make_origin(expires=100.0), embed=hash_embed)

    def sources(now: float) -> set[str]:
        found = search(collection, "oil floor", k=50, embed=hash_embed, only=only, now=now)
        return {one.source for one in found}

    assert sources(99.0) - sources(100.0) == {"logs/2"}
    assert "logs/2" not in {one.source for one in search(collection, "oil floor", k=50)}  # it is long past
    assert time.time() > 100.0


# --- neighbours -----------------------------------------------------------------------------------------


def test_neighbours_are_those_of_the_section_in_order(tmp_path: Path) -> None:
    texts = ("zero", "one", "two", "three", "four")
    headings = [("A",), ("B",), ("B",), ("B",), ("C",)]
    document, passages = make_document("a.md", *texts, headings=headings)
    other, others = make_document("b.md", *texts, headings=headings)
    with Collection(tmp_path / "kb", writes=True) as collection:
        collection.put(document, passages, make_origin())
        collection.put(other, others, make_origin())
        (found,) = search(collection, "two", only=Filter(sources="a.md"))
        around = neighbours(collection, found.id, before=2, after=1)
        assert [one.text for one in around] == ["one", "three"]
        assert around[0] == Kept(around[0].id, "a.md", "B", "one", 6, 9)
        assert [one.text for one in neighbours(collection, found.id, before=0)] == ["three"]
        assert neighbours(collection, "gone") == []


# --- fusing ---------------------------------------------------------------------------------------------


def test_figures_are_weighed() -> None:
    weights = Weights(words=1.0, meaning=3.0, heading=0.0)
    assert fuse([4.0, 2.0], [0.4, 0.8], [0.0, 0.0], weights) == pytest.approx([0.625, 0.875])


def test_a_figure_that_nobody_has_takes_no_part() -> None:
    weights = Weights(words=1.0, meaning=3.0, heading=0.0)
    assert fuse([4.0, 2.0], [None, None], [0.0, 0.0], weights) == [1.0, 0.5]
    assert fuse([0.0, 0.0], [0.4, 0.8], [0.0, 0.0], weights) == [0.5, 1.0]
    assert fuse([0.0], [-0.3], [0.0], weights) == [0.0]
    assert fuse([], [], [], weights) == []


def test_a_passage_without_a_vector_is_as_near_as_the_others_are() -> None:
    weights = Weights(words=0.5, meaning=0.5, heading=0.0)
    assert fuse([0.0, 4.0, 0.0], [0.8, None, 0.4], [0.0] * 3, weights) == pytest.approx([0.5, 0.875, 0.25])


def test_what_was_remembered_just_now_is_found_among_what_has_vectors(collection: Collection) -> None:
    document, passages = make_document("logs/2", "pump 7 lost pressure")
    collection.put(document, passages, make_origin())
    found = search(collection, "which pump lost pressure?", embed=hash_embed, k=3)
    assert [one.source for one in found if one.cosine is None] == ["logs/2"]
    assert "logs/2" in [one.source for one in found[:2]]


def test_a_heading_with_the_question_s_words_is_worth_something() -> None:
    without, with_heading = fuse([1.0, 1.0], [0.5, 0.5], [0.0, 1.0], Weights())
    assert without < with_heading


FIGURES = st.lists(
    st.tuples(st.floats(0, 50), st.none() | st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=20
)


@given(FIGURES)
def test_scores_are_shares(figures: list[tuple[float, float | None, float]]) -> None:
    bm25, cosines, headings = zip(*figures, strict=True)
    for score in fuse(bm25, cosines, headings, Weights()):
        assert 0.0 <= score <= 1.0 + 1e-9
