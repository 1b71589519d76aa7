"""PDFs as plain text. Those of the tests are made here."""

from __future__ import annotations

import logging
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeslm.errors import KnowledgeError
from edgeslm.knowledge.documents.passages import Document, split
from edgeslm.knowledge.readers.pdf import read_pdf
from tests.support.knowledge.pdfs import make_pdf, write_objects


def read(content: bytes) -> Document:
    return read_pdf(BytesIO(content), "a/b.pdf")


def test_pages_are_sections_where_there_is_no_outline() -> None:
    document = read(make_pdf([["Vent the pump.", "Then start it."], ["Close it."]]))
    assert document.title == "b.pdf"
    assert [(passage.heading, passage.text) for passage in split(document)] == [
        (("page 1",), "Vent the pump.\nThen start it."),
        (("page 2",), "Close it."),
    ]


def test_sections_come_from_the_outline() -> None:
    pages = [
        ["Pumps", "Intro.", "1.1 Start", "Vent it."],
        ["and wait.", "1.2 When it", "leaks", "Close it."],
        ["More."],
    ]
    outline = [(1, "Pumps", 0), (2, "Start", 0), (2, "When it leaks", 1), (1, "Nowhere", 2)]
    document = read(make_pdf(pages, outline=outline, title="The  pump"))
    assert document.title == "The pump"
    assert [(passage.heading, passage.text) for passage in split(document)] == [
        (("Pumps",), "Intro."),
        (("Pumps", "1.1 Start"), "Vent it.\n\nand wait."),
        (("Pumps", "1.2 When it leaks"), "Close it."),
        (("Nowhere",), "More."),
    ]


def test_the_number_of_a_chapter_may_stand_above_its_title() -> None:
    document = read(make_pdf([["Chapter 2", "Pumps", "Vent it."]], outline=[(1, "Pumps", 0)]))
    assert document.headings[0].title == "Chapter 2 Pumps"


def test_the_mark_of_a_footnote_is_no_number_of_a_title() -> None:
    document = read(make_pdf([["Start it.", "1", "11.2 Pumps", "Vent it."]], outline=[(1, "11.2 Pumps", 0)]))
    assert document.headings[-1].title == "11.2 Pumps"


def test_heads_feet_and_numbers_of_pages_are_left_out() -> None:
    pages = [
        [f"The manual {page}/6", f"Text of page {name}.", f"- {page} -"]
        for page, name in enumerate("abcdef", 1)
    ]
    assert read(make_pdf(pages)).text == "\n\n".join(f"Text of page {name}." for name in "abcdef")


def test_running_heads_in_capitals_differ_and_are_left_out() -> None:
    pages = [
        [f"CHAPTER {page}. ON {name.upper() * 3}", f"Text of page {name}."]
        for page, name in enumerate("abcdef", 1)
    ]
    assert "CHAPTER" not in read(make_pdf(pages)).text


def test_parted_words_are_whole_again() -> None:
    lines = [
        "Read non-free and well-",
        "known manuals of the sys-",
        "tem, non-",
        "free ones too, by A-",
        "B.",
    ]
    assert (
        read(make_pdf([lines])).text
        == "Read non-free and wellknown manuals of the system, non-free ones too, by A-B."
    )


def test_narrow_gaps_between_words_are_blanks() -> None:
    line = b"[(Vent) -190 (the) -190 (p) 40 (ump) -60 (s)] TJ T*"
    assert read(make_pdf([[line]])).text == "Vent the pumps"


def test_letters_without_a_meaning_before_a_text_do_no_harm() -> None:
    assert read(make_pdf([[b"<01> Tj " * 3000, "Vent it."]])).text == "Vent it."


def test_half_a_character_in_a_title_is_no_title() -> None:
    document = read(make_pdf([["Vent it."]], title="\ud83d", outline=[(1, "\ud83d", 0)]))
    assert (document.title, [heading.title for heading in document.headings]) == ("b.pdf", ["page 1"])


def test_a_list_of_contents_is_no_passage() -> None:
    contents = [f"{number} Part {number} . . . . . . . . . . . . {number}" for number in range(1, 8)]
    passages = split(read(make_pdf([["Contents", *contents], ["Text."]])))
    assert [passage.text for passage in passages][-1] == "Text."
    assert not any(". . ." in passage.text for passage in passages)


def test_a_page_that_cannot_be_read_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgeslm.knowledge"):
        assert read(make_pdf([["Vent it."], ["Close it."]], broken={1})).text == "Vent it."
    assert caplog.messages == ["a/b.pdf: 1 of 2 pages can't be read and are left out"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "can't be read as a PDF"),
        (b"%PDF-1.7\nnothing", "can't be read as a PDF"),
        (make_pdf([["a"]])[:300], "can't be read as a PDF"),
        (make_pdf([["a"]], password="secret"), "is locked with a password; save a copy without one"),
        (make_pdf([[], []]), "has no text in it; if its pages are pictures, it needs OCR first"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(KnowledgeError, match=rf"^a/b\.pdf {sentence}"):
        read(content)


CATALOG, PAGES = b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources 5 0 R >>"
DRAWS = (
    b"<< /Length 5 /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources 5 0 R >>\n"
    b"stream\n/A Do\nendstream"
)


@pytest.mark.parametrize(
    "objects",
    [
        [CATALOG, b"<< /Type /Pages /Kids [2 0 R] /Count 9 >>"],
        [CATALOG, b"<< /Type /Pages /Kids 2 0 R /Count 2147483647 >>"],
        [CATALOG, PAGES, PAGE, DRAWS, b"<< /XObject << /A 4 0 R >> >>"],
        [CATALOG, PAGES, PAGE, b"[" * 100_000, b"<<>>"],
        [b"<< /Pages 2 0 R /Outlines 5 0 R >>", PAGES, PAGE, DRAWS, b"<< /First 5 0 R /Next 5 0 R >>"],
        [b"<<" + b"/A <<" * 100_000, PAGES],
    ],
)
def test_what_leads_back_to_itself_ends(objects: list[bytes]) -> None:
    with pytest.raises(KnowledgeError, match=r"^a/b\.pdf "):
        read(write_objects(dict(enumerate(objects, 1))))


def test_a_file_that_only_its_owner_may_change_is_read() -> None:
    assert read(make_pdf([["Vent it."]], password="")).text == "Vent it."


WHOLE = make_pdf([["Vent the pump."], ["Close it."]], outline=[(1, "Vent", 0)])


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=4)), max_size=8))
def test_a_damaged_file_is_read_or_refused(changes: list[tuple[int, bytes]]) -> None:
    content = bytearray(WHOLE)
    for place, part in changes:
        content[place : place + len(part)] = part
    try:
        document = read(bytes(content))
    except KnowledgeError as error:
        assert str(error).startswith("a/b.pdf ")
    else:
        split(document)
