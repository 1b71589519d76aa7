"""A document in the making."""

from __future__ import annotations

from edgeslm.knowledge.documents.passages import Heading, split
from edgeslm.knowledge.readers.document_builder import DocumentBuilder


def test_blocks_are_parted_and_headings_know_their_places() -> None:
    builder = DocumentBuilder()
    builder.paragraph(" before \n all ")
    builder.heading(1, " The\npump ")
    builder.lines("  a  \n\n  b\n\n")
    builder.paragraph("  ")
    builder.heading(2, "\n")
    document = builder.document("a", "b")
    assert document.text == "before all\n\nThe pump\n\n  a\n\n  b"
    assert document.headings == (Heading(1, "The pump", 12, 20),)


def test_text_after_a_part_that_is_left_belongs_to_what_is_above() -> None:
    builder = DocumentBuilder()
    builder.heading(1, "Options")
    builder.heading(3, "-a")
    builder.paragraph("one")
    builder.leave(3)
    builder.paragraph("two")
    builder.heading(3, "-b")
    builder.leave(3)
    builder.heading(3, "-c")
    builder.leave(1)  # nothing is above it
    builder.paragraph("three")
    assert [(passage.heading, passage.text) for passage in split(builder.document("a", "a"))] == [
        (("Options", "-a"), "one"),
        (("Options",), "two"),
        (("Options", "-b"), "-b"),
        (("Options", "-c"), "three"),
    ]


def test_a_section_whose_title_is_not_in_the_text() -> None:
    builder = DocumentBuilder()
    builder.section(1, "page 1")
    builder.section(1, "page 2")
    builder.paragraph("one")
    assert [(passage.heading, passage.text) for passage in split(builder.document("a", "a"))] == [
        (("page 2",), "one")
    ]
