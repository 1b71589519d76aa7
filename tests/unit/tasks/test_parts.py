from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeslm.tasks.parts import split_parts


def parts(text: str, most: int) -> list[str]:
    return [text[start:end] for start, end in split_parts(text, most)]


def test_between_paragraphs_first() -> None:
    text = "One. Two is longer.\n\nThree stands here. Four.\n\nFive."
    assert parts(text, 40) == ["One. Two is longer.", "Three stands here. Four.\n\nFive."]


def test_then_between_sentences_lines_and_words() -> None:
    assert parts("One is here. Two is here. Three is here.", 30) == [
        "One is here. Two is here.",
        "Three is here.",
    ]
    assert parts("one two\nthree four five", 14) == ["one two", "three four", "five"]
    assert parts("one two three four", 10) == ["one two", "three four"]


def test_and_anywhere_where_nothing_else_is_possible() -> None:
    assert parts("x" * 25, 10) == ["x" * 10, "x" * 10, "x" * 5]


@given(st.text(alphabet="ab. \n", max_size=300), st.integers(2, 50))
def test_nothing_is_lost_and_no_part_is_too_long(text: str, most: int) -> None:
    found = parts(text, most)
    assert "".join("".join(part.split()) for part in found) == "".join(text.split())
    assert all(part == part.strip() and 0 < len(part) <= most for part in found)
