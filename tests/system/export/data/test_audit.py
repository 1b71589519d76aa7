"""What is wrong with labelled rows: each kind of finding names its rows, and sound rows make none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edgeslm_export.data.audit import (
    DROPPABLE,
    AuditFinding,
    audit_labels,
    audit_rows,
    find_duplicates,
    long_rows,
    without,
)
from edgeslm_export.data.rows import FieldsRow, LabelledRow
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.errors import ExportError

GERMAN = (
    "Die Pumpe im Keller ist heute Nacht sehr heiß gelaufen und steht still.",
    "Bitte wechseln Sie vor dem Mittag das Lager der zweiten Presse aus.",
)
ENGLISH = (
    "The pump in the basement ran very hot tonight and has stopped since then.",
    "Please change the bearing of the second press before noon if you can.",
    "Nobody has seen the key to the compressor room since the night shift left.",
    "We have been waiting for the delivery of the new valves since last week.",
    "The night shift found that the oil had leaked out under the old machine.",
    "There was a loud noise in the hall, and then the whole line came to a stop.",
    "Somebody should look at the sensors at the gate, they show nothing at all.",
    "It would be good to know which of these alarms matter and which do not.",
)


def labelled(*rows: tuple[str, str]) -> list[LabelledRow]:
    return [LabelledRow(number, text, label) for number, (text, label) in enumerate(rows, 1)]


def kinds(findings: Sequence[AuditFinding]) -> dict[str, AuditFinding]:
    """Findings by their kind; of most kinds there is one at most."""
    return {finding.kind: finding for finding in findings}


def sound(each: int = 10) -> list[tuple[str, str]]:
    """Texts in which nothing is wrong."""
    return [(f"{word} {number}", label) for number in range(each) for word, label in (("x", "a"), ("y", "b"))]


def test_sound_rows_make_no_finding() -> None:
    assert audit_rows(labelled(*sound())) == []


def test_no_rows_make_no_finding() -> None:
    assert audit_rows([]) == []


# --- repeats and conflicts ---------------------------------------------------------------------------


def test_of_a_repeat_the_first_row_stays() -> None:
    rows = labelled(("It is hot", "a"), *sound(), ("it  is HOT ", "a"), ("It is hot", "a"))
    found = kinds(audit_rows(rows))["repeats"]
    assert found.rows == (21, 22)
    assert found.sentence == "2 rows repeat an earlier one"


def test_of_rows_that_contradict_each_other_none_stays() -> None:
    rows = labelled(("It is hot", "a"), *sound(), ("it is hot", "b"), ("it is hot", "a"))
    found = kinds(audit_rows(rows))
    assert found["conflicts"].rows == (0, 21, 22)
    assert "3 rows have the text of another row and contradict it" in found["conflicts"].sentence
    assert "repeats" not in found


def test_rows_with_fields_repeat_and_contradict_too() -> None:
    rows = [
        FieldsRow(number, text, fields)
        for number, (text, fields) in enumerate(
            [
                ("M3 is hot", {"machine": "M3"}),
                ("m3 is hot", {"machine": "M3"}),
                ("M4 is hot", {"machine": "M4"}),
                ("M4 is hot", {"machine": "M3"}),
            ],
            1,
        )
    ]
    found = kinds(audit_rows(rows))
    assert {kind: finding.rows for kind, finding in found.items()} == {"repeats": (1,), "conflicts": (2, 3)}


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")), max_size=12))
def test_what_is_left_neither_repeats_nor_contradicts(pairs: list[tuple[str, str]]) -> None:
    rows = labelled(*pairs)
    left = [row.text for row in without(rows, list(find_duplicates(rows)))]
    assert len(left) == len(set(left))
    agreed = {text for text, _ in pairs if len({label for other, label in pairs if other == text}) == 1}
    assert set(left) == agreed


@pytest.mark.parametrize(("more", "sentence"), [(1, "1 row repeats an"), (2, "2 rows repeat an")])
def test_one_row_is_not_many(more: int, sentence: str) -> None:
    rows = labelled(*sound(), *[("x 0", "a")] * more)
    assert kinds(audit_rows(rows))["repeats"].sentence == f"{sentence} earlier one"


# --- rows that corrections replaced ------------------------------------------------------------------


def test_how_many_rows_were_replaced_is_a_finding() -> None:
    rows = labelled(*sound())
    assert "corrected" not in kinds(audit_rows(rows))
    rows[3] = replace(rows[3], replaced=(40,))
    found = kinds(audit_rows(rows))["corrected"]
    assert (found.rows, found.gone) == ((), (40,))
    assert found.sentence == "1 row is replaced by later corrections of the same text"
    rows[0] = replace(rows[0], replaced=(41, 7))
    found = kinds(audit_rows(rows))["corrected"]
    assert found.gone == (7, 40, 41)
    assert found.sentence == "3 rows are replaced by later corrections of the same text"


# --- the test's rows ---------------------------------------------------------------------------------


def test_rows_that_are_in_the_test_are_found_whatever_their_case() -> None:
    found = kinds(audit_rows(labelled(*sound()), tested=["X  3", "y 4", "z 9"]))["tested"]
    assert found.rows == (6, 9)
    assert "2 rows are in the test too" in found.sentence


# --- labels with few rows ----------------------------------------------------------------------------


def test_a_label_with_one_row() -> None:
    found = kinds(audit_rows(labelled(*sound(), ("z", "rare"))))["few"]
    assert found.sentence == "the label 'rare' has 1 row; 20 or more are useful"


@pytest.mark.parametrize(("rows", "is_few"), [(7, True), (8, False)])
def test_a_label_with_few_rows_is_named_and_keeps_them(rows: int, is_few: bool) -> None:
    found = kinds(audit_rows(labelled(*sound(), *((f"z {number}", "rare") for number in range(rows)))))
    assert ("few" in found) is is_few
    if is_few:
        assert found["few"].rows == ()
        assert found["few"].sentence == "the label 'rare' has 7 rows; 20 or more are useful"


# --- labels alike but for case -----------------------------------------------------------------------


def test_labels_alike_but_for_case_are_found_and_stay_as_they_are() -> None:
    more = [(f"z {number}", ("Straße", "STRASSE")[number % 5 == 0]) for number in range(20)]
    rows = labelled(("on", "B"), *sound(), *more, ("off", "B"))
    found = [finding for finding in audit_rows(rows) if finding.kind == "case"]
    assert [finding.sentence for finding in found] == [
        "labels alike but for case: 'STRASSE' and 'Straße'",
        "labels alike but for case: 'B' and 'b'",
    ]
    assert [finding.rows for finding in found] == [(21, 26, 31, 36), (0, 41)]
    assert "case" not in DROPPABLE


# --- texts that are too long -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "places", "sentence"),
    [
        ([7, 8, 9], (2,), "1 row is longer than the model reads (8 tokens); only its beginning is learned"),
        ([9, 1, 99], (0, 2), "2 rows are longer than the model reads (8 tokens); only their beginning is"),
    ],
)
def test_rows_that_the_model_reads_only_in_part(
    counts: list[int], places: tuple[int, ...], sentence: str
) -> None:
    (found,) = long_rows(counts, 8)
    assert (found.kind, found.rows) == ("long", places)
    assert found.sentence.startswith(sentence)
    assert found.sentence.endswith("set overflow: head in the task")
    assert "long" not in DROPPABLE


@pytest.mark.parametrize("counts", [[], [1, 8]])
def test_rows_that_fit_are_no_finding(counts: list[int]) -> None:
    assert long_rows(counts, 8) == []


# --- texts that give their label away ----------------------------------------------------------------


def test_a_text_that_carries_its_label_as_a_tag_is_told() -> None:
    rows = labelled(
        *((f"[SPAM] offer {number}", "spam") for number in range(10)),
        *((f"hello {number}", "ham") for number in range(10)),
    )
    found = [finding for finding in audit_rows(rows) if finding.kind == "leakage"]
    assert [finding.rows for finding in found] == [()]
    assert "100% of the rows with the label 'spam' have 'spam' in their text" in found[0].sentence


def test_a_word_that_other_rows_have_too_gives_nothing_away() -> None:
    rows = labelled(
        *((f"no spam here {number}", "spam") for number in range(10)),
        *((f"no spam there {number}", "ham") for number in range(10)),
    )
    assert "leakage" not in kinds(audit_rows(rows))


def test_a_word_in_a_few_rows_of_its_label_is_a_sign_and_no_tag() -> None:
    rows = labelled(
        *((f"the pump {number}" + " heat" * (number < 9), "heat") for number in range(60)),
        *((f"the press {number}", "noise") for number in range(60)),
    )
    assert "leakage" not in kinds(audit_rows(rows))


# --- languages ---------------------------------------------------------------------------------------


def test_rows_in_another_language_than_most_are_found() -> None:
    texts = [*ENGLISH, *GERMAN]
    rows = labelled(*((text, "ab"[number % 2]) for number, text in enumerate(texts)))
    found = kinds(audit_rows(rows))["languages"]
    assert found.rows == (8, 9)
    assert found.sentence == "2 rows seem to be in another language (de) than most (en)"


def test_short_texts_say_nothing_of_their_language() -> None:
    rows = labelled(*((text, "a") for text in ENGLISH), ("Die Pumpe ist heiß", "a"))
    assert "languages" not in kinds(audit_rows(rows))


def test_rows_in_two_languages_by_intent_are_no_finding() -> None:
    rows = labelled(*((text, "a") for text in ENGLISH[:2]), *((text, "a") for text in GERMAN))
    assert "languages" not in kinds(audit_rows(rows))


# --- labels that are probably wrong ------------------------------------------------------------------


def judged(rows: int, turned: Sequence[int], seed: int = 0) -> tuple[Any, Any]:
    """Truth with some labels turned, and probabilities of a model that knows better."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, rows)
    sure = random.uniform(0.8, 0.97, rows)
    probabilities = np.repeat((1 - sure)[:, None] / 2, 3, axis=1)
    probabilities[np.arange(rows), truth] = sure
    given_labels = truth.copy()
    given_labels[list(turned)] = (truth[list(turned)] + 1) % 3
    return given_labels, probabilities


def test_wrong_labels_are_found() -> None:
    turned = list(range(5, 300, 20))
    (found,) = audit_labels(*judged(300, turned))
    assert found.kind == "labels"
    assert set(found.rows) <= set(turned)
    assert len(found.rows) >= 13
    assert found.sentence.startswith(f"{len(found.rows)} rows may have a wrong label")


def test_the_likeliest_of_wrong_labels_is_first() -> None:
    truth, probabilities = judged(300, [10, 20, 30])
    probabilities[20] = [0.005, 0.005, 0.005]
    probabilities[20, (truth[20] + 2) % 3] = 0.99
    (found,) = audit_labels(truth, probabilities)
    assert found.rows[0] == 20


def test_models_that_are_often_wrong_doubt_no_label() -> None:
    truth, probabilities = judged(300, list(range(90)))
    assert audit_labels(truth, probabilities) == []


def test_right_labels_make_no_finding() -> None:
    assert audit_labels(*judged(300, [])) == []


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    with pytest.raises(ExportError, match=r"needs the extra teach: pip install '\.\[teach\]' in a clone"):
        audit_labels(*judged(30, []))


# --- dropping ----------------------------------------------------------------------------------------


def test_what_any_finding_names_is_dropped_once() -> None:
    rows = labelled(*sound(2))
    findings = [
        AuditFinding("repeats", (1, 2), ""),
        AuditFinding("tested", (2,), ""),
        AuditFinding("few", (), ""),
    ]
    assert [row.number for row in without(rows, findings)] == [1, 4]


def test_wrong_labels_are_looked_for_without_forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forked from a process with the engine's threads, the library's workers never ended."""

    def fork(*_: object, **__: object) -> None:
        raise AssertionError("forked")

    monkeypatch.setattr("multiprocessing.pool.Pool.__init__", fork)
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 300)
    probabilities = np.eye(3)[truth] * 0.8 + 0.1
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    truth[:5] = (truth[:5] + 1) % 3
    (finding,) = audit_labels(truth, probabilities)
    assert set(range(5)) <= set(finding.rows)
