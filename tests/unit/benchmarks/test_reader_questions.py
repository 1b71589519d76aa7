"""Questions that teach a reader: the committed file, and the rows that are made of documents."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from edgeslm.knowledge.documents.passages import Document
from edgeslm.knowledge.documents.sentences import split_sentences
from tests.support.benchmarks.scripts import BENCHMARKS, load_scripts

SCRIPTS = load_scripts("reader_questions", "grounded_questions")
READER, GROUNDED = SCRIPTS["reader_questions"], SCRIPTS["grounded_questions"]
WHERE = ("presses", "doc/press.md")
TEXT = "Oil the press\n  weekly. Wear gloves."


def place(document: Document, *asked: Any, digest: str | None = None) -> Any:
    whole = document.text[: len(TEXT)]
    return READER.Place(
        "presses", "doc/press.md", 0, len(TEXT), digest or READER.digest_of(whole), "Care", asked
    )


def test_the_file_asks_of_no_document_that_is_measured_with() -> None:
    places = READER.load_places()
    assert len(places) > 4000
    assert not {one.package for one in places} & {member.package for member in GROUNDED.MEMBERS.values()}
    assert all(0 <= one.start < one.end for one in places)


def test_the_answers_of_added_sentences_stand_in_them() -> None:
    added = [asked for one in READER.load_places() for asked in one.asked if asked.added is not None]
    assert len(added) > 7000
    for asked in added:
        start, end = asked.answer
        assert asked.added is not None and asked.added[start:end].strip(), asked


def test_a_question_comes_with_its_passage() -> None:
    rest = " ".join(f"Sentence {number} of the rest is long enough for a passage." for number in range(60))
    document = Document("press.md", "Press", f"{TEXT}\n\n{rest}")
    weekly = READER.squeezed(TEXT).index("weekly")
    asked = READER.Asked("how often?", (weekly, weekly + 6))
    first, *others = READER.rows_of(document, [place(document, asked)])
    assert first["text"] == "Oil the press weekly. Wear gloves."
    assert first["answer"] == "weekly" == first["text"][first["start"] :][:6]
    assert (first["heading"], first["source"]) == ("Care", "presses/doc/press.md")
    assert others and not any("question" in row or "gloves" in row["text"] for row in others)


def test_a_sentence_that_answers_is_put_beside_what_is_most_like_the_question() -> None:
    text, start = READER.with_sentence(
        "Oil the press weekly. Wear gloves.", "what oil?", "ISO VG 46 will do."
    )
    assert text == "Oil the press weekly. ISO VG 46 will do. Wear gloves."
    assert text[start:].startswith("ISO")
    assert len(split_sentences(text)) == 3
    document = Document("press.md", "Press", TEXT)
    (row,) = READER.rows_of(
        document, [place(document, READER.Asked("what oil?", (0, 9), "ISO VG 46 will do."))]
    )
    assert row["text"][row["start"] :].startswith("ISO VG 46 will do")
    assert row["answer"] == "ISO VG 46"
    assert READER.with_sentence("", "what oil?", "It is red.") == (" It is red.", 1)


def test_a_passage_of_another_version_is_left_out() -> None:
    document = Document("press.md", "Press", TEXT)
    rows = list(
        READER.rows_of(document, [place(document, READER.Asked("how often?", (14, 20)), digest="0" * 12)])
    )
    assert [row["text"] for row in rows] == ["Oil the press weekly. Wear gloves."]
    assert "question" not in rows[0]


def test_a_packed_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "press.md.gz").write_bytes(gzip.compress(b"# Care\n\nOil it weekly.\n"))
    document = READER.read_member(tmp_path, "press.md.gz")
    assert "Oil it weekly." in document.text
    assert [heading.title for heading in document.headings] == ["Care"]


def test_a_line_a_passage() -> None:
    lines = (BENCHMARKS / "data/reader_questions.jsonl").read_text("utf-8").splitlines()
    places = [tuple(json.loads(line)[key] for key in ("package", "file")) for line in lines]
    assert places == sorted(places)
