from __future__ import annotations

import re

from hypothesis import assume, given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.knowledge.index.rerank import DEPTH, MOST_SENTENCES, readable, rerank, reread, sentences
from tests.support.passages import make_found

ABOUT = make_found("Much about the press. It is blue.", score=0.9, margin=0.1)
SAYS_IT = make_found("Some words first. The press is oiled\n  weekly.\n\nMore.", score=0.8, margin=0.8)
QUESTION = (1.0, 0.0)


def test_sentences_are_embedded_as_lines() -> None:
    assert sentences([ABOUT, SAYS_IT]) == [
        ["Much about the press.", "It is blue."],
        ["Some words first.", "The press is oiled weekly.", "More."],
    ]
    assert sentences([make_found("Пресс смазывают раз в неделю. Он синий.")]) == [
        ["Пресс смазывают раз в неделю.", "Он синий."]
    ]
    assert sentences([]) == []
    assert len(sentences([ABOUT] * 20)) == DEPTH


def test_the_nearest_sentence_lifts_its_passage() -> None:
    vectors = [[(0.5, 0.8), (0.1, 0.9)], [(0.1, 0.9), (1.0, 0.0), (0.0, 1.0)]]
    first, second = rerank([ABOUT, SAYS_IT], QUESTION, vectors)
    assert (first.id, first.sentence) == (SAYS_IT.id, 1.0)
    assert first.nearest is not None
    assert first.text[slice(*first.nearest)] == "The press is oiled\n  weekly."
    assert (second.id, second.sentence, second.nearest) == (ABOUT.id, 0.5, (0, 21))
    assert first.margin == first.score - second.score > 0
    assert second.margin == second.score
    assert 0 <= second.score <= first.score <= 1


@given(st.text("aB. \n-1。", max_size=200))
def test_sentences_are_those_of_the_text(text: str) -> None:
    passage = make_found(text)
    (own,) = sentences([passage])
    (seen,) = rerank([passage], QUESTION, [[(1.0, 0.0)] * len(own)])
    assert [(start, end) for start, end, _ in seen.sentences] == split_sentences(text)[:MOST_SENTENCES]


def test_what_is_behind_the_first_stays_behind() -> None:
    behind = make_found("Later.", score=0.79, margin=0.0)
    many = [make_found(f"Text {number}.", score=0.8 - number / 100) for number in range(DEPTH)]
    ordered = rerank([*many, behind], QUESTION, [[(0.5, 0.5)]] * DEPTH)
    assert ordered[-1].id == behind.id
    assert ordered[-1].score <= ordered[-2].score
    assert ordered[-1].sentence is None


def test_without_any_nearness_nothing_changes() -> None:
    found = [ABOUT, SAYS_IT]
    vectors = [[(0.0, 1.0)] * len(own) for own in sentences(found)]
    assert rerank(found, QUESTION, vectors) == found
    assert rerank([], QUESTION, []) == []


# --- a reader ----------------------------------------------------------------------------------------


def test_passages_are_read_as_lines_below_their_headings() -> None:
    headed = make_found("Oil it\n  weekly.", heading="Care > Press")
    assert readable([headed, ABOUT]) == ["Care > Press\nOil it weekly.", "Much about the press. It is blue."]
    assert len(readable([ABOUT] * 20)) == DEPTH


def test_what_answers_goes_before_what_is_alike() -> None:
    alike, answers = make_found("About presses.", score=0.80), make_found("Weekly.", score=0.79)
    first, second = reread([alike, answers], [0.1, 0.9], [(), ()])
    assert (first.id, first.read, second.read) == (answers.id, 0.9, 0.1)
    assert first.margin == first.score - second.score > 0
    assert 0 <= second.score <= first.score <= 1


def test_what_nobody_read_stays_behind() -> None:
    many = [make_found(f"Text {number}.", score=0.8 - number / 100) for number in range(DEPTH + 1)]
    ordered = reread(many, [0.5] * DEPTH, [()] * DEPTH)
    assert ordered[-1].read is None
    assert ordered[-1].score <= ordered[-2].score
    assert reread([], [], []) == []


@given(
    st.text("ab \n\t.", max_size=30).map(str.strip).filter(bool),
    st.sampled_from(["", "Care > Press"]),
    st.data(),
)
def test_a_place_that_was_read_is_found_in_the_text(text: str, heading: str, data: st.DataObject) -> None:
    passage = make_found(text, heading=heading)
    (read,) = readable([passage])
    first = len(read) - len(" ".join(text.split()))
    words = [match.span() for match in re.finditer(r"\S+", read) if match.start() >= first]
    start, end = data.draw(st.sampled_from(words))[0], data.draw(st.sampled_from(words))[1]
    assume(start < end)
    (found,) = reread([passage], [0.5], [[(start, end, 0.7)]])
    ((first, last, share),) = found.pointed
    assert (" ".join(text[first:last].split()), share) == (read[start:end], 0.7)


def test_a_place_in_the_heading_is_none() -> None:
    passage = make_found("Oil it weekly.", heading="Care > Press")
    (found,) = reread([passage], [0.5], [[(0, 4, 0.6), (7, 15, 0.2), (20, 26, 0.1), (20, 40, 0.1)]])
    assert found.pointed == ((7, 13, 0.1),)
