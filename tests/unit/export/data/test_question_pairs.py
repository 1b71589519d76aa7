from __future__ import annotations

import pytest
from edgeslm_export.data.question_pairs import (
    FEWEST,
    check_count,
    is_aside,
    may_overlap,
    nearly_equal,
    words_of,
)
from edgeslm_export.data.rows import QuestionRow

from edgeslm.errors import ExportError


def test_a_tenth_of_the_sources_is_kept_aside() -> None:
    rows = [QuestionRow(1, f"Text {number}.", source=f"{number}.md") for number in range(1000)]
    assert 60 < sum(map(is_aside, rows)) < 140
    other = [QuestionRow(1, "Another text.", source=row.source) for row in rows]
    assert [is_aside(row) for row in other] == [is_aside(row) for row in rows]


def test_texts_without_a_source_are_their_own() -> None:
    assert len({is_aside(QuestionRow(1, f"Text {number}.")) for number in range(100)}) == 2


def test_texts_that_say_much_the_same() -> None:
    press = words_of("The press is oiled weekly.")
    assert may_overlap(press, words_of("the PRESS is oiled weekly, and greased"))
    assert not may_overlap(press, words_of("The pump stands in hall two."))
    assert not may_overlap(frozenset(), frozenset())


def test_texts_that_say_the_same_and_not_more() -> None:
    press, more = (
        words_of("The press is oiled weekly."),
        "The press is oiled weekly by Ann, who lives in Ulm.",
    )
    assert nearly_equal(press, words_of("the PRESS is oiled weekly, with grease"))
    assert may_overlap(press, words_of(more))
    assert not nearly_equal(press, words_of(more))
    assert not nearly_equal(frozenset(), frozenset())


def test_few_questions_are_refused() -> None:
    check_count(FEWEST)
    with pytest.raises(ExportError, match="There are 19 answered questions besides those held out"):
        check_count(FEWEST - 1)
