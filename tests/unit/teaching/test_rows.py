"""Rows of earlier labels, and recorded messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeslm.errors import EdgeslmError
from edgeslm.storage.encryption import Seal
from edgeslm.storage.feedback_store import Correction, FeedbackStore
from edgeslm.teaching.rows import Labels, earlier_rows, read_messages, waiting_rows

LABELS = ("normal", "critical")


def test_labels_given_here_count_and_those_of_others_wait(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    given = Labels(store, "triage", ids={"Fire!": "panel-7"})
    given.keep({"text": "Fire!", "label": "normal"})
    store.keep(Correction("triage", "Loud", "critical", by="desk-3"))
    store.keep(Correction("triage", "Fire!", "normal", by=""))
    given.keep({"text": "Fire!", "label": "critical"})
    given.keep({"text": "Odd", "label": "removed"})
    assert earlier_rows(given, LABELS) == [{"text": "Fire!", "label": "critical"}]
    assert waiting_rows(given, LABELS) == [
        {"text": "Loud", "label": "critical", "by": "desk-3"},
        {"text": "Fire!", "label": "normal", "by": ""},
    ]
    assert store.rows("triage")[0]["id"] == "panel-7"
    given.take_back("Fire!")
    assert earlier_rows(given, LABELS) == [{"text": "Fire!", "label": "normal"}]
    given.take_back("Loud")
    assert len(waiting_rows(given, LABELS)) == 2, "that of another stays"


def test_corrections_are_settled_by_the_labels_given_here(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    for text in ("Loud", "Fire!", "Smoke"):
        store.keep(Correction("triage", text, "critical", by="desk-3"))
    given = Labels(store, "triage")
    given.settle([{"text": "Loud", "label": "critical"}, {"text": "Fire!", "label": "normal"}])
    assert [row.get("accepted") for row in store.rows("triage")] == [True, False, None]


def test_encrypted_labels_replace_those_that_are_not(tmp_path: Path) -> None:
    plain, sealed = FeedbackStore(tmp_path), FeedbackStore(tmp_path, Seal(b"k" * 32))
    plain.keep(Correction("triage", "Fire!", "normal"))
    plain.keep(Correction("triage", "Loud", "normal", by="desk-3"))
    given = Labels(sealed, "triage", plain)
    given.keep({"text": "Fire!", "label": "critical"})
    assert earlier_rows(given, LABELS) == [{"text": "Fire!", "label": "critical"}]
    given.settle([{"text": "Loud", "label": "normal"}])
    assert len(earlier_rows(given, LABELS)) == 2


def test_recorded_messages_are_lines_or_json(tmp_path: Path) -> None:
    file = tmp_path / "triage.txt"
    file.write_text('one\r\n{"text": "two"}\n\n{"text": 3}\n[1]\n')
    assert read_messages(file) == ["one", "two", '{"text": 3}', "[1]"]


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"one, two",a\n,b\nthree\n',
        '\ufefflabel;text\na;"one, two"\nb;\nc;three\n',
        'text\n"one, two"\r\n\r\nthree\r\n',
    ],
)
def test_of_a_csv_file_the_column_text_is_read(tmp_path: Path, content: str) -> None:
    file = tmp_path / "notes.csv"
    file.write_text(content, encoding="utf-8", newline="")
    assert read_messages(file) == ["one, two", "three"]


def test_a_csv_file_without_that_column_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text("note,label\na,b\n")
    with pytest.raises(EdgeslmError, match="has no column text; its first line is 'note,label'"):
        read_messages(file)


def test_a_csv_file_with_an_open_quote_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "notes.csv"
    file.write_text('text\n"' + "a\n" * 100_000)
    with pytest.raises(EdgeslmError, match="isn't CSV: field larger than field limit"):
        read_messages(file)


def test_only_the_end_of_a_large_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "triage.txt"
    file.write_text("".join(f"message {number:04}\n" for number in range(1000)))
    assert read_messages(file, 39) == ["message 0998", "message 0999"]
    assert len(read_messages(file, 10**6)) == 1000


def test_a_file_that_cant_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", "binary"):
        with pytest.raises(EdgeslmError, match="can't be read"):
            read_messages(tmp_path / name)
