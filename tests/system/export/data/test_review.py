"""Findings shown with their rows' numbers, and dropped as the user wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.data.audit import Row, Rows
from edgeslm_export.data.review import ALL, ASK, HeldOutLabels, doubted, load_tested, review_rows
from edgeslm_export.data.rows import FieldsRow, LabelledRow

from edgeslm.errors import ExportError

FIRST = 11
"""Number of the first row: numbers are those of the file's lines, not of places."""


def rows_of(*pairs: tuple[str, str]) -> list[LabelledRow]:
    return [LabelledRow(number, text, label) for number, (text, label) in enumerate(pairs, FIRST)]


SOUND = [(f"{word} {number}", label) for number in range(10) for word, label in (("x", "a"), ("y", "b"))]
ROWS = rows_of(("It is hot", "a"), ("it is hot", "a"), ("It is on", "a"), ("it is on", "b"), *SOUND)
"""Row 12 repeats row 11; rows 13 and 14 contradict each other."""
REPEATS, CONFLICTS = [12], [13, 14]


Typing = Callable[[str], None]


class Reviewer:
    """Proofreads and keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def read(
        self, clean: Collection[str] = (), rows: Rows = ROWS, **options: Any
    ) -> tuple[list[int], list[dict[str, Any]]]:
        """:return: the numbers of the rows that were dropped, and the report."""
        left, report = review_rows(rows, clean, self.said.append, **options)
        numbers = {row.number for row in left}
        return [row.number for row in rows if row.number not in numbers], report


def wrong(*numbers: int) -> HeldOutLabels:
    """A judge that is sure of every row, and for these rows of the other label."""

    def judge(rows: Sequence[LabelledRow]) -> tuple[Any, Any, Any]:
        truth = np.array(["ab".index(row.label) for row in rows])
        odd = np.array([row.number in numbers for row in rows])
        probabilities = np.full((len(rows), 2), 0.05)
        probabilities[np.arange(len(rows)), np.where(odd, 1 - truth, truth)] = 0.95
        order = np.arange(len(rows))[::-1]  # in an order of its own
        return order, truth[order], probabilities[order]

    return judge


# --- what is dropped ---------------------------------------------------------------------------------


def test_rows_stay_where_nothing_is_said_and_how_to_drop_them_is_shown() -> None:
    reviewer = Reviewer()
    dropped, report = reviewer.read()
    assert dropped == []
    assert reviewer.said == [
        "1 row repeats an earlier one: row 12.",
        "  12 (a): it is hot",
        "  It stays; --clean repeats drops it.",
        "2 rows have the text of another row and contradict it: rows 13, 14.",
        "  13 (a): It is on",
        "  14 (b): it is on",
        "  They stay; --clean conflicts drops them.",
    ]
    assert [entry["dropped"] for entry in report] == [False, False]


@pytest.mark.parametrize(
    ("clean", "expected"),
    [
        ((ALL,), REPEATS + CONFLICTS),
        (("repeats",), REPEATS),
        (("conflicts",), CONFLICTS),
        (("repeats", "conflicts"), REPEATS + CONFLICTS),
        (("languages",), []),
    ],
)
def test_kinds_that_are_named_are_dropped(clean: tuple[str, ...], expected: list[int]) -> None:
    assert Reviewer().read(clean)[0] == expected


def test_what_was_dropped_and_what_stayed_is_in_the_report() -> None:
    reviewer = Reviewer()
    _, report = reviewer.read(("conflicts",))
    assert [(entry["kind"], entry["rows"], entry["dropped"]) for entry in report] == [
        ("repeats", REPEATS, False),
        ("conflicts", CONFLICTS, True),
    ]
    assert json.loads(json.dumps(report)) == report
    assert "  2 rows are dropped." in reviewer.said
    assert not any("They stay" in said for said in reviewer.said)  # who names kinds knows of them


def test_a_finding_without_rows_is_said_and_drops_nothing() -> None:
    reviewer = Reviewer()
    rows = rows_of(*SOUND, ("rare", "c"))
    dropped, report = reviewer.read((ALL,), rows)
    assert dropped == []
    assert reviewer.said == ["the label 'c' has 1 row; 20 or more are useful."]
    assert [(entry["kind"], entry["dropped"]) for entry in report] == [("few", False)]


def test_of_many_rows_the_first_ones_are_shown_and_all_reported() -> None:
    reviewer = Reviewer()
    rows = rows_of(*SOUND, *SOUND)
    _, report = reviewer.read((), rows)
    assert reviewer.said[0].endswith("rows 31, 32, 33, 34, 35, 36, 37, 38, 39, 40 ....")
    assert len(report[0]["rows"]) == 20


def test_a_text_is_shown_in_one_short_line() -> None:
    reviewer = Reviewer()
    reviewer.read((), rows_of(*[("It is\n\x1b[2J hot " + "so " * 90, "a")] * 2, *SOUND))
    assert reviewer.said[1] == "  12 (a): " + f"It is \ufffd[2J hot {'so ' * 30}"[:69] + "…"


def test_one_row_that_is_dropped() -> None:
    reviewer = Reviewer()
    reviewer.read(("repeats",))
    assert "  1 row is dropped." in reviewer.said


def test_rows_that_corrections_replaced_are_named_and_nothing_is_asked(
    type_in: Typing, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in("y\n")
    rows = rows_of(*SOUND)
    rows[0] = replace(rows[0], replaced=(3, 5))
    for clean in ((), (ALL,), (ASK,)):
        reviewer = Reviewer()
        dropped, report = reviewer.read(clean, rows)
        assert dropped == []
        assert reviewer.said == ["2 rows are replaced by later corrections of the same text: rows 3, 5."]
        assert [(entry["kind"], entry["rows"], entry["dropped"]) for entry in report] == [
            ("corrected", [3, 5], False)
        ]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("clean", [(), (ALL,)])
def test_labels_alike_but_for_case_are_named_with_their_rows_and_stay(clean: tuple[str, ...]) -> None:
    reviewer = Reviewer()
    rows = rows_of(*SOUND, *((f"z {number}", "A") for number in range(8)))
    dropped, report = reviewer.read(clean, rows)
    assert dropped == []
    assert reviewer.said == ["labels alike but for case: 'A' and 'a': rows 31, 32, 33, 34, 35, 36, 37, 38."]
    assert report[0]["rows"] == list(range(31, 39))


@pytest.mark.parametrize("clean", [(), (ALL,)])
def test_long_rows_are_named_after_others_were_dropped_and_stay(clean: tuple[str, ...]) -> None:
    reviewer = Reviewer()
    dropped, report = reviewer.read(clean, lengths=lambda texts: ([len(text.split()) for text in texts], 2))
    assert dropped == ((REPEATS + CONFLICTS) if clean else [])
    assert report[-1]["kind"] == "long"
    assert report[-1]["rows"] == ([11] if clean else [11, 12, 13, 14])
    assert reviewer.said[-1].startswith("1 row is longer" if clean else "4 rows are longer")


def test_where_nothing_is_too_long_nothing_is_said() -> None:
    reviewer = Reviewer()
    reviewer.read((), rows_of(*SOUND), lengths=lambda texts: ([2] * len(texts), 2))
    assert reviewer.said == []


def test_rows_of_the_test_are_dropped() -> None:
    rows = rows_of(*SOUND)
    dropped, report = Reviewer().read(("tested",), rows, tested=["X 0"])
    assert dropped == [FIRST]
    assert report[0]["kind"] == "tested"


def test_rows_with_fields_are_proofread_too() -> None:
    rows: list[Row] = [FieldsRow(1, "M3", {"machine": "M3"}), FieldsRow(2, "m3", {"machine": "M3"})]
    assert Reviewer().read((ALL,), rows)[0] == [2]


def test_nothing_may_be_left_by_no_cleaning() -> None:
    with pytest.raises(ExportError, match="No row is left to learn from"):
        Reviewer().read((ALL,), rows_of(("on", "a"), ("on", "b")))


# --- labels that are probably wrong ------------------------------------------------------------------


def test_wrong_labels_are_those_of_the_rows_and_not_of_their_places() -> None:
    rows = rows_of(*SOUND, *((f"{text} more", label) for text, label in SOUND))
    dropped, report = Reviewer().read(("labels",), rows, held_out=wrong(16, 33))
    assert dropped == []  # they are tested with all the same
    assert report[-1]["kind"] == "labels"
    assert sorted(report[-1]["rows"]) == sorted(doubted(report)) == [16, 33]


def test_wrong_labels_that_nobody_drops_are_learned() -> None:
    rows = rows_of(*SOUND, *((f"{text} more", label) for text, label in SOUND))
    _, report = Reviewer().read((), rows, held_out=wrong(16, 33))
    assert doubted(report) == []


def test_who_judges_sees_no_row_that_was_dropped() -> None:
    seen: list[int] = []

    def judge(rows: Sequence[LabelledRow]) -> tuple[Any, Any, Any]:
        seen.extend(row.number for row in rows)
        return wrong(20)(rows)

    dropped, _ = Reviewer().read((ALL,), held_out=judge)
    assert seen == [row.number for row in ROWS if row.number not in REPEATS + CONFLICTS]
    assert dropped == [*REPEATS, *CONFLICTS]


def test_fields_are_not_judged() -> None:
    def judge(rows: Sequence[LabelledRow]) -> tuple[Any, Any, Any]:
        raise AssertionError("asked")

    rows: list[Row] = [FieldsRow(1, "M3", {"machine": "M3"})]
    assert Reviewer().read((ALL,), rows, held_out=judge) == ([], [])


# --- asking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("y\nn\n", REPEATS),
        ("\nYES\n", CONFLICTS),
        ("y\ny\n", REPEATS + CONFLICTS),
        ("no\nwhat\n", []),
        ("", []),
    ],
)
def test_each_finding_is_asked_for(
    answers: str,
    expected: list[int],
    type_in: Typing,
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(answers)
    assert Reviewer().read((ASK,))[0] == expected
    asked = capsys.readouterr().err
    assert asked == "  Drop it (repeats)? [y/N]   Drop them (conflicts)? [y/N] "


def test_a_finding_without_rows_is_not_asked_for(type_in: Typing, capsys: pytest.CaptureFixture[str]) -> None:
    type_in("y\n")
    Reviewer().read((ASK,), rows_of(*SOUND, ("rare", "c")))
    assert capsys.readouterr().err == ""


def test_without_a_terminal_nobody_is_asked() -> None:
    sentence = r"Nobody can be asked here: name what --clean drops \(repeats, conflicts, .*, all\)"
    with pytest.raises(ExportError, match=sentence):
        Reviewer().read((ASK,))


# --- the test's texts --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [{"label": "a"}, {"fields": {"machine": "M3"}}], ids=["label", "fields"])
def test_texts_of_a_test_are_read_whatever_its_kind(tmp_path: Path, answer: dict[str, Any]) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, **answer}) for text in ("one", "two")))
    assert load_tested(file) == ["one", "two"]


def test_without_a_test_there_are_no_texts() -> None:
    assert load_tested(None) == []
