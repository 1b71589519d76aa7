"""Headings of plain text and reStructuredText."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.readers.plain_text import read_plain_text, read_restructured_text

BODY = "    The pump is vented before it is started.\n    It then runs for a day.\n"


def headings(document: Document) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in document.headings]


def below(document: Document, title: str) -> str:
    heading = next(heading for heading in document.headings if heading.title == title)
    return document.text[heading.body :].strip()


def test_the_text_stays_as_it_stands() -> None:
    text = "Pumps\r\n=====\r\n\r\n1. Start\r\n\r\n  text\f\r\n"
    document = read_plain_text(text, "a.txt")
    assert document.text == text
    assert below(document, "Pumps").startswith("1. Start")


def test_underlined_titles_have_the_level_of_their_kind_of_line() -> None:
    text = "====\nBook\n====\n\nOne\n===\n\ntext\n\nOne one\n-------\n\ntext\n\nTwo\n===\n\ntext\n"
    document = read_restructured_text(text, "a.rst")
    assert headings(document) == [(1, "Book"), (2, "One"), (3, "One one"), (2, "Two")]
    assert document.headings[0].start == 0
    assert document.title == "Book"


def test_lines_that_draw_something_else_underline_nothing() -> None:
    text = (
        "name  size\n----  ----\na     1\n\nsome text\nand its end\n-----------\n\n"
        "---------\n\nshort\n--\n\n::\n\n  code\n  ----\n"
    )
    assert headings(read_restructured_text(text, "a.rst")) == []


def test_numbered_titles_of_indented_text() -> None:
    text = (
        f"Chapter 1. Pumps\n\n1.1. Start\n\n{BODY}\n1.2. What to do when a pump\nleaks?\n\n{BODY}\n"
        f"Chapter 2. Fans\n\n{BODY}"
    )
    assert headings(read_plain_text(text, "a.txt")) == [
        (1, "Chapter 1. Pumps"),
        (2, "1.1. Start"),
        (2, "1.2. What to do when a pump leaks?"),
        (1, "Chapter 2. Fans"),
    ]


@pytest.mark.parametrize("word", ["Kapitel", "Capítulo", "Chapitre", "Capitolo", "Hoofdstuk"])
def test_chapters_in_other_languages_have_sections(word: str) -> None:
    text = f"{word} 1. A\n\n1.1. B\n\n{BODY}\n1.2. C\n\n{BODY}\n{word} 2. D\n\n2.1. E\n\n{BODY}"
    found = [(heading.level, heading.title) for heading in read_plain_text(text, "a.txt").headings]
    assert found == [(1, f"{word} 1. A"), (2, "1.1. B"), (2, "1.2. C"), (1, f"{word} 2. D"), (2, "2.1. E")]


def test_the_style_of_an_rfc() -> None:
    text = (
        f"1.  Introduction\n\n{BODY}\n1.1.  Terms\n\n{BODY}\n2.  Model\n\n{BODY}\n"
        f"Appendix A.  Log\n\n{BODY}\nA.1.  More\n\n{BODY}"
    )
    assert [level for level, _ in headings(read_plain_text(text, "a.txt"))] == [1, 2, 1, 1, 2]


def test_no_break_spaces_part_a_number_from_its_title() -> None:
    assert headings(read_plain_text(f"1.\xa0Start\n\n{BODY}", "a.txt")) == [(1, "1.\xa0Start")]


def test_numbers_of_a_list_are_no_titles() -> None:
    text = (
        f"4. Start\n\n{BODY}\n4.1. Steps\n\n{BODY}\n1. Open the valve\n\n{BODY}\n"
        f"2. Close it\n\n{BODY}\n4.2. More\n\n{BODY}"
    )
    assert headings(read_plain_text(text, "a.txt")) == [(1, "4. Start"), (2, "4.1. Steps"), (2, "4.2. More")]


def test_a_plain_list_at_the_margin_is_no_outline() -> None:
    assert headings(read_plain_text("1. Open the valve.\n\n2. Close it.\n\nThen wait.\n", "a.txt")) == []


def test_a_list_of_contents_is_no_outline() -> None:
    text = f"Table of Contents\n\n1. Start\n2. Stop\n\n1. Start\n\n{BODY}\n2. Stop\n\n{BODY}"
    assert headings(read_plain_text(text, "a.txt"))[1:] == [(1, "1. Start"), (1, "2. Stop")]


def test_lines_at_the_margin_of_indented_text_are_titles() -> None:
    text = f"NAME\n\n{BODY}\nSEE ALSO\n\n{BODY}\n* no title\n\n{BODY}\nA sentence ends.\n\n{BODY}"
    assert headings(read_plain_text(text, "a.txt")) == [(1, "NAME"), (1, "SEE ALSO")]


def test_the_title_is_the_first_line_that_can_be_one() -> None:
    assert read_plain_text("\n   The pump\n\nIt is a pump, of course.\n", "a/b.txt").title == "The pump"
    assert read_plain_text("It is a pump, of course.\n", "a/b.txt").title == "b.txt"
    assert read_plain_text("", "a/b.txt").title == "b.txt"


@given(st.text(st.sampled_from("aA1. \n=-\t•\f"), max_size=300))
def test_headings_of_any_text_are_in_order_and_inside(text: str) -> None:
    for read in (read_plain_text, read_restructured_text):
        document = read(text, "a")
        end = 0
        for heading in document.headings:
            assert end <= heading.start < heading.body <= len(text)
            assert heading.title.strip() == heading.title != ""
            end = heading.start + 1
