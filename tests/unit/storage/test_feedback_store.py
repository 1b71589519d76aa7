"""Corrections in files, as ``edgeslm-export tune`` reads them."""

from __future__ import annotations

import datetime
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgeslm.errors import FeedbackError
from edgeslm.storage.encryption import Seal
from edgeslm.storage.erasure_filter import Choice
from edgeslm.storage.feedback_store import MOST_BYTES, Correction, FeedbackStore, is_used, is_waiting
from tests.support.disks import files_end_at

NOW = datetime.datetime(2026, 3, 4, 5, 6, 7, 890, tzinfo=datetime.UTC)
FIRE = Correction("triage", "Fire!", "critical")


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_label_is_a_row() -> None:
    assert FIRE.encode(NOW) == (
        b'{"text": "Fire!", "label": "critical", "at": "2026-03-04T05:06:07+00:00"}\n'
    )


def test_fields_are_a_row() -> None:
    row = json.loads(
        Correction("fields", "Press 4", fields={"machine": "Press 4", "hours": None}).encode(NOW)
    )
    assert row == {
        "text": "Press 4",
        "fields": {"machine": "Press 4", "hours": None},
        "at": "2026-03-04T05:06:07+00:00",
    }


def test_a_row_is_one_line_whatever_the_text_holds(tmp_path: Path) -> None:
    text = 'Grüße 🙂 "quoted"\nline two\r\n\u2028\x85'
    file = FeedbackStore(tmp_path).keep(Correction("triage", text, "critical"))
    assert file.read_bytes().count(b"\n") == 1
    assert json.loads(file.read_bytes())["text"] == text
    assert "Grüße 🙂".encode() in file.read_bytes(), "a person can read it"


def test_each_task_has_a_file(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "state")
    assert store.keep(FIRE) == tmp_path / "state/feedback/triage.jsonl"
    store.keep(Correction("fields", "Press 4", fields={"machine": "Press 4"}))
    store.keep(Correction("triage", "All fine", "normal"))
    assert [row["label"] for row in rows(store.file("triage"))] == ["critical", "normal"]
    assert len(rows(store.file("fields"))) == 1


def test_a_row_says_when_it_was_said(tmp_path: Path) -> None:
    (row,) = rows(FeedbackStore(tmp_path).keep(FIRE))
    assert datetime.datetime.fromisoformat(row["at"]).utcoffset() == datetime.timedelta(0)


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    assert stat.S_IMODE(FeedbackStore(tmp_path).keep(FIRE).stat().st_mode) == 0o600


def test_several_may_write_at_once(tmp_path: Path) -> None:
    texts = [f"text {number} {'x' * 5000}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: FeedbackStore(tmp_path).keep(Correction("triage", text, "a")), texts))
    assert sorted(row["text"] for row in rows(FeedbackStore(tmp_path).file("triage"))) == sorted(texts)


# -- what can't be kept ----------------------------------------------------------------------------


def test_a_full_file_takes_no_more(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    file = store.keep(FIRE)
    with file.open("ab") as stream:
        stream.truncate(MOST_BYTES - len(FIRE.encode(NOW)) - 1)
        stream.write(b"\n")
    store.keep(FIRE)
    with pytest.raises(FeedbackError, match=r"triage\.jsonl has .* the most that are kept; learn from it"):
        store.keep(FIRE)
    assert file.stat().st_size == MOST_BYTES
    assert store.keep(Correction("other", "x", "a")).exists(), "other tasks have room of their own"


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_leaves_no_half_row(tmp_path: Path, room: int) -> None:
    store = FeedbackStore(tmp_path)
    file = store.keep(FIRE)
    before = file.read_bytes()
    sentence = "no space left on" if room else "File too large"
    with (
        files_end_at(len(before) + room),
        pytest.raises(FeedbackError, match=rf"triage\.jsonl .*: {sentence}"),
    ):
        store.keep(FIRE)
    assert file.read_bytes() == before
    store.keep(FIRE)
    assert len(rows(file)) == 2


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "feedback").write_text("in the way")
    with pytest.raises(FeedbackError, match=r"triage\.jsonl can't be written: File exists"):
        FeedbackStore(tmp_path).keep(FIRE)


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    FeedbackStore(tmp_path).file("triage").mkdir(parents=True)
    with pytest.raises(FeedbackError, match=r"triage\.jsonl can't be written: Is a directory"):
        FeedbackStore(tmp_path).keep(FIRE)


# --- rows that came over MQTT ----------------------------------------------------------------------


def test_a_senders_rows_wait_until_somebody_decides(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    store.keep(FIRE)
    for text in ("Smoke", "Rain", "Sun"):
        store.keep(Correction("triage", text, "critical", by="desk-3"))
    store.keep(Correction("triage", "Hail", "normal", by=""))
    assert [is_waiting(row) for row in store.rows("triage")] == [False, True, True, True, True]
    smoke, rain, *_ = store.rows("triage")[1:]
    store.decide("triage", [smoke, store.rows("triage")[0]], use=True)
    store.decide("triage", [rain], use=False)
    found = store.rows("triage")
    assert [row["text"] for row in found if is_used(row)] == ["Fire!", "Smoke"]
    assert [row["text"] for row in found if is_waiting(row)] == ["Sun", "Hail"]
    store.decide("triage", [found[1]], use=False)
    assert is_used(store.rows("triage")[1]), "a decision stays"


def test_rows_that_came_after_the_question_are_not_decided(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    store.keep(Correction("triage", "Smoke", "critical", by="desk-3"))
    shown = store.rows("triage")
    store.keep(Correction("triage", "Smoke", "normal", by="desk-3"))
    store.decide("triage", shown, use=True)
    assert [is_waiting(row) for row in store.rows("triage")] == [False, True]


def test_damaged_rows_are_left_out_and_kept(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    store.keep(Correction("triage", "Smoke", "critical", by="desk-3"))
    with store.file("triage").open("ab") as stream:
        stream.write(b'{"text": "half\n\xff\n[1]\n{"text": 1, "label": "a"}\n{"text": "x"}\n')
    assert len(store.rows("triage")) == 1
    store.decide("triage", store.rows("triage"), use=True)
    assert store.file("triage").read_bytes().count(b"\n") == 6


def test_pages_have_all_rows_once(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    for number in range(20):
        store.keep(Correction("triage", f"text {number}", "critical"))
    place: int | None = 0
    texts: list[str] = []
    pages = 0
    while place is not None:
        found, place = store.page("triage", place, 300)
        texts += [row["text"] for row in found]
        pages += 1
    assert texts == [f"text {number}" for number in range(20)] and pages > 3
    assert store.page("none", 0, 300) == ([], None)


def test_the_newest_row_of_a_text_is_taken_back(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    for text, label in (
        ("Fire!", "normal"),
        ("Loud", "normal"),
        ("Fire!", "critical"),
        ("Smoke", "critical"),
    ):
        store.keep(Correction("triage", text, label))
    store.take_back("triage", "Fire!")
    assert [(row["text"], row["label"]) for row in store.rows("triage")] == [
        ("Fire!", "normal"),
        ("Loud", "normal"),
        ("Smoke", "critical"),
    ]
    store.take_back("triage", "unknown")
    assert len(list(store.rows("triage"))) == 3


def test_rows_may_be_encrypted(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path, Seal(b"k" * 32))
    store.keep(Correction("triage", "Fire!", "critical", id="panel-7"))
    store.keep(Correction("triage", "Loud", "normal"))
    (first, second) = store.rows("triage")
    assert (first["text"], first["label"], first["id"]) == ("Fire!", "critical", "panel-7")
    content = store.file("triage").read_bytes()
    assert b"Fire" not in content and b"critical" not in content
    assert FeedbackStore(tmp_path).rows("triage") == []
    assert FeedbackStore(tmp_path, Seal(b"o" * 32)).rows("triage") == []
    store.take_back("triage", "Loud")
    assert second["text"] == "Loud" and len(list(store.rows("triage"))) == 1
    assert FeedbackStore(tmp_path).erase(Choice(id="panel-*")) == 1, "without the key"
    assert list(store.rows("triage")) == []


def test_a_flood_of_corrections_that_nobody_accepted_hides_no_others(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path)
    for number in range(9):
        store.keep(Correction("triage", f'note "by": {number}', "critical"))
    store.keep(Correction("triage", "Smoke", "critical", by="panel"))
    store.decide("triage", store.rows("triage"), use=True)
    for number in range(100):
        store.keep(Correction("triage", f"flood {number}" + "x" * 100, "critical", by="a stranger"))
    assert [row["text"] for row in store.used("triage", 5000)][-2:] == ['note "by": 8', "Smoke"]
    assert len(store.used("triage", 5000)) == 10
    assert [row["text"] for row in store.used("triage", 120)] == ["Smoke"], "the newest"
    assert store.used("other", 5000) == []
