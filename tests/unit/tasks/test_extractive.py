from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.extractive import best_sentences, central

TEXT = (
    "Good morning. The press in hall 3 overheated twice. Lunch was at noon. The press was "
    "stopped, and its bearing replaced by the fitter. Somebody lost an umbrella. The bearing had been noisy."
)


def test_the_sentences_that_say_what_the_text_is_about() -> None:
    sentences = [TEXT[start:end] for start, end in split_sentences(TEXT)]
    assert [sentences[number] for number in central(sentences, most=2)] == [
        "The press in hall 3 overheated twice.",
        "The press was stopped, and its bearing replaced by the fitter.",
    ]


def test_what_stands_first_counts_more() -> None:
    assert [TEXT[start:end] for start, end in best_sentences(TEXT, most=1)] == [
        "The press in hall 3 overheated twice."
    ]
    other = "Elm, oak and ash were felled. " + TEXT
    assert [other[start:end] for start, end in best_sentences(other, most=1)] == [
        "Elm, oak and ash were felled."
    ]


def test_what_was_said_is_not_said_again() -> None:
    sentences = [
        "The old press overheated.",
        "The old press overheated.",
        "Belt two tore.",
        "The press is very old.",
    ]
    assert central(sentences, most=2)[0] in (0, 1)
    assert central(sentences, most=2) != [0, 1]


def test_what_is_no_sentence_is_left_out_where_there_are_some() -> None:
    table = "press " * 200
    text = f"{table}.\n\nThe press overheated."
    assert [text[start:end] for start, end in best_sentences(text, most=1)] == ["The press overheated."]
    assert best_sentences(table, most=1) == [(0, len(table) - 1)]


def test_a_text_without_words_is_its_first_sentence() -> None:
    assert best_sentences("... !!!", most=1) == [(0, 7)]
    assert best_sentences("") == []


@given(st.text(max_size=300), st.integers(1, 4))
def test_in_the_order_of_the_text(text: str, most: int) -> None:
    spans = best_sentences(text, most=most)
    assert spans == sorted(spans)
    assert len(spans) <= most
