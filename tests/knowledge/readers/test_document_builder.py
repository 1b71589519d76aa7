"""A document in the making."""

from __future__ import annotations

from edgeslm.knowledge.documents.passages import Heading, split
from edgeslm.knowledge.readers.document_builder import DocumentBuilder


def test_blocks_are_parted_and_headings_know_their_places() -> None:
    draft = DocumentBuilder()
    draft.paragraph(" before \n all ")
    draft.heading(1, " The\npump ")
    draft.lines("  a  \n\n  b\n\n")
    draft.paragraph("  ")
    draft.heading(2, "\n")
    document = draft.document("a", "b")
    assert document.text == "before all\n\nThe pump\n\n  a\n\n  b"
    assert document.headings == (Heading(1, "The pump", 12, 20),)


def test_text_after_a_part_that_is_left_belongs_to_what_is_above() -> None:
    draft = DocumentBuilder()
    draft.heading(1, "Options")
    draft.heading(3, "-a")
    draft.paragraph("one")
    draft.leave(3)
    draft.paragraph("two")
    draft.heading(3, "-b")
    draft.leave(3)
    draft.heading(3, "-c")
    draft.leave(1)  # nothing is above it
    draft.paragraph("three")
    assert [(passage.heading, passage.text) for passage in split(draft.document("a", "a"))] == [
        (("Options", "-a"), "one"),
        (("Options",), "two"),
        (("Options", "-b"), "-b"),
        (("Options", "-c"), "three"),
    ]


def test_a_section_whose_title_is_not_in_the_text() -> None:
    draft = DocumentBuilder()
    draft.section(1, "page 1")
    draft.section(1, "page 2")
    draft.paragraph("one")
    assert [(passage.heading, passage.text) for passage in split(draft.document("a", "a"))] == [
        (("page 2",), "one")
    ]
