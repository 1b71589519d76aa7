"""What a teacher says of texts, what a student is given of it, and who is compared; by stand-ins alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.train.distill import (
    Examinee,
    PseudoLabelled,
    Teacher,
    ask_teacher,
    compare,
    distil,
    labels_of,
)
from edgeslm_export.train.spec import Budget, Inputs

from edgeslm.bundle.manifest import Source, load_bundle
from edgeslm.errors import ExportError
from tests.support.export.children import FakeChildren
from tests.support.export.fake_teachers import (
    QUIET,
    Answered,
    FakeExaminer,
    FakeSchool,
    by_number,
    in_turn,
    number_of,
    said,
    task,
    texts,
)
from tests.support.taught import EXTRACT, write_adapter, write_base, write_head

SOURCE = Source(id="texts")


@pytest.fixture
def adapter(tmp_path: Path) -> Teacher:
    """It was taught to find fields."""
    digest = write_base(tmp_path / "base")
    return Teacher(load_bundle(write_adapter(tmp_path / "adapter", digest, EXTRACT)), tmp_path / "base")


# --- labels ------------------------------------------------------------------------------------------


def test_a_taught_teacher_says_which_labels_there_are(head: Teacher) -> None:
    assert labels_of(head, task()) == ("spam", "ham")


def test_the_same_labels_in_another_order_are_the_teachers(head: Teacher) -> None:
    assert labels_of(head, task("ham", "spam")) == ("spam", "ham")


def test_labels_that_differ_are_refused(head: Teacher) -> None:
    with pytest.raises(ExportError, match="knows the labels spam, ham, and the task has spam, eggs"):
        labels_of(head, task("spam", "eggs"))


def test_who_was_taught_nothing_has_to_be_told_the_labels(decoder: Teacher) -> None:
    assert labels_of(decoder, task("a", "b")) == ("a", "b")
    with pytest.raises(ExportError, match=r"An untrained teacher needs the labels: put them in TASK\.yaml"):
        labels_of(decoder, task())


def test_who_was_taught_fields_teaches_no_labels(adapter: Teacher) -> None:
    with pytest.raises(ExportError, match="was trained to extract; only classify is distilled"):
        labels_of(adapter, task("spam", "ham"))


# --- asking the teacher ------------------------------------------------------------------------------


def test_shares_are_kept_as_the_teacher_says_them(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(in_turn)
    found = ask_teacher(head, task(), texts(26), notes, QUIET)
    assert found.texts == texts(26)
    assert found.shares == [pytest.approx(pair) for pair in ([0.8, 0.2], [0.2, 0.8])] * 13
    assert found.labels == ("spam", "ham"), "the order is the teacher's"
    assert (found.dropped, found.asked, found.left_out) == (0, 0, {})


def test_texts_that_the_teacher_is_not_sure_of_are_dropped(
    head: Teacher, answered: Answered, notes: Notes
) -> None:
    answered(by_number)
    found = ask_teacher(head, task(), texts(60), notes, QUIET)
    assert found.texts == [text for number, text in enumerate(texts(60)) if number % 3]
    assert found.dropped == 20


def test_how_sure_is_the_users_choice(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(by_number)
    assert ask_teacher(head, task(), texts(60), notes, QUIET, sure=0.55).dropped == 0


def test_texts_without_an_answer_are_dropped(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(lambda text: None if text == "text 7" else in_turn(text))
    found = ask_teacher(head, task(), texts(30), notes, QUIET)
    assert "text 7" not in found.texts
    assert found.dropped == 1


def test_a_user_who_is_asked_is_certain(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(by_number)
    asked: list[tuple[str, tuple[str, ...], str]] = []

    def ask_user(text: str, labels: Sequence[str], guess: str) -> str | None:
        asked.append((text, tuple(labels), guess))
        return "ham" if len(asked) == 1 else None

    found = ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=ask_user)
    assert asked[0] == ("text 0", ("spam", "ham"), "spam")
    assert (found.asked, found.dropped) == (1, 19)
    assert found.shares[found.texts.index("text 0")] == [0.0, 1.0]


def test_a_text_counts_once_whatever_its_case(head: Teacher, answered: Answered, notes: Notes) -> None:
    fake = answered(in_turn)
    found = ask_teacher(head, task(), [*texts(25), *(text.upper() for text in texts(25))], notes, QUIET)
    assert len(found.texts) == len(fake.exams[0].rows) == 25


def test_too_few_sure_texts_are_refused(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(by_number)
    with pytest.raises(ExportError, match=r"sure of 18 texts of 27; at least 20 .* or a lower --sure"):
        ask_teacher(head, task(), texts(27), notes, QUIET)


def test_a_taught_teacher_is_asked_by_its_bundle(head: Teacher, answered: Answered, notes: Notes) -> None:
    fake = answered(in_turn)
    ask_teacher(head, task(), texts(20), notes, QUIET)
    (exam,) = fake.exams
    assert (exam.bundle, fake.bases) == (head.bundle.path, [head.base])
    assert exam.with_answers
    assert exam.make_task().learned is not None


def test_who_was_taught_nothing_is_asked_the_task_as_it_is(
    decoder: Teacher, answered: Answered, notes: Notes
) -> None:
    """It is asked what a device with this task would ask it."""
    fake = answered(in_turn)
    told = task("spam", "ham", instruction="Is it wanted?")
    ask_teacher(decoder, told, texts(20), notes, QUIET)
    (exam,) = fake.exams
    assert exam.bundle is None
    assert exam.section.learned is None
    assert (exam.section.kind, exam.section.labels) == ("classify", told.section.labels)
    assert exam.section.instruction == "Is it wanted?"
    assert Exam.parse(json.loads(json.dumps(exam.encode()))).section == exam.section
    assert exam.make_task().learned is None


def test_an_untaught_teacher_is_asked_without_its_label_bias(
    decoder: Teacher, answered: Answered, notes: Notes
) -> None:
    fake = answered(in_turn)
    told = task("spam", "ham", calibration={"spam": 0.8, "ham": 0.2})
    ask_teacher(decoder, told, texts(20), notes, QUIET)
    (exam,) = fake.exams
    assert Exam.parse(json.loads(json.dumps(exam.encode()))).section.calibration == {"spam": 0.8, "ham": 0.2}


def test_bytes_of_a_teacher_are_those_of_all_that_a_device_loads(head: Teacher, decoder: Teacher) -> None:
    base = load_bundle(head.base).weight_bytes
    assert base > 0
    assert head.bytes == base + head.bundle.weight_bytes
    assert decoder.bytes == decoder.bundle.weight_bytes


# --- labels that too few texts have ------------------------------------------------------------------


LABELS = ("ham", "spam", "scam")


def of_three(*shares: float) -> dict[str, Any]:
    scores = dict(zip(LABELS, shares, strict=True))
    label = max(scores, key=lambda name: scores[name])
    return {"label": label, "confidence": scores[label], "scores": scores}


def one_scam(text: str) -> dict[str, Any]:
    if text == "text 3":
        return of_three(0.1, 0.1, 0.8)
    return of_three(0.2, 0.7, 0.1) if number_of(text) % 2 else of_three(0.6, 0.0, 0.4)


def test_a_label_of_one_text_is_left_out(decoder: Teacher, answered: Answered, notes: Notes) -> None:
    """It failed the command after all the asking."""
    answered(one_scam)
    told: list[str] = []
    asked = task(*LABELS)
    found = ask_teacher(decoder, asked, texts(30), notes, Budget(announce=told.append))
    assert found.labels == ("ham", "spam")
    assert found.texts == [text for text in texts(30) if text != "text 3"]
    assert found.shares[0] == pytest.approx([1.0, 0.0])
    assert found.shares[1] == pytest.approx([2 / 9, 7 / 9]), "what is left sums to 1"
    assert (found.left_out, found.dropped) == ({"scam": 1}, 0)
    assert told == [
        "Too few texts have the labels 'scam' (1): the student learns without them and never says them."
    ]


def test_the_users_answers_count_for_a_label(decoder: Teacher, answered: Answered, notes: Notes) -> None:
    answered(one_scam)
    found = ask_teacher(
        decoder, task(*LABELS), texts(30), notes, QUIET, sure=0.65, ask_user=lambda *_: "scam"
    )
    assert found.labels == LABELS[1:]
    assert found.left_out == {"ham": 0}
    assert (found.asked, len(found.texts)) == (15, 30)


def test_one_label_alone_is_nothing_to_tell_apart(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(lambda text: said(0.2 if text == "text 3" else 0.9))
    with pytest.raises(ExportError, match=r"labels 'ham' \(1\); two labels that 2 texts have are needed"):
        ask_teacher(head, task(), texts(30), notes, QUIET)


def test_too_few_texts_of_labels_that_are_learned_are_refused(
    decoder: Teacher, answered: Answered, notes: Notes
) -> None:
    answered(one_scam)
    with pytest.raises(ExportError, match=r"labels 'scam' \(1\), and 19 others are left; 20 are needed"):
        ask_teacher(decoder, task(*LABELS), texts(20), notes, QUIET)


# --- teaching the student ----------------------------------------------------------------------------


def labelled(spam: Sequence[float]) -> PseudoLabelled:
    return PseudoLabelled(texts(len(spam)), [[share, 1 - share] for share in spam], ("spam", "ham"))


def test_a_student_learns_the_shares(school: FakeSchool, tmp_path: Path) -> None:
    shares = [0.9, 0.2, 0.7, 0.4] * 10
    _, report = distil(task("ham", "spam"), labelled(shares), SOURCE, tmp_path / "out", Inputs(), QUIET)
    (spec,) = school.specs
    assert report["method"] == "encoder"
    assert spec.labels == ("spam", "ham")
    assert spec.shares is not None
    assert spec.shares[:, 0].tolist() == shares
    assert spec.truth.tolist() == [0, 1, 0, 1] * 10
    assert sorted(np.concatenate([test for _, test in spec.folds]).tolist()) == list(range(40))


def test_what_another_teacher_says_is_learned_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same texts, after a command that failed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found: list[set[Path]] = []
    for shares in ([0.9, 0.2] * 20, [0.9, 0.2] * 20, [0.7, 0.4] * 20):
        with pytest.raises(ExportError, match="needs an encoder's bundle"):
            distil(task(), labelled(shares), SOURCE, tmp_path / "out", Inputs(), QUIET)
        found.append(set(cache_folder().glob("tune-*")))
    assert [len(folders) for folders in found] == [1, 1, 2]
    assert found[0] == found[1] < found[2]


# --- comparing ---------------------------------------------------------------------------------------

TEST = [LabelledRow(number, f"test {number}", ("spam", "ham")[number % 2]) for number in range(6)]
HAND = [LabelledRow(number, f"hand {number}", ("spam", "ham")[number % 2]) for number in range(50)]


@pytest.fixture
def evaluated(children: FakeChildren) -> list[tuple[Path, Path]]:
    """The students that were tried, each with its base; of one of hand labels there is a bundle then."""
    tried: list[tuple[Path, Path]] = []
    examiner = FakeExaminer(lambda text: said(0.8))

    def evaluate(task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        report, exam = examiner(task, on_progress), examiner.exams[-1]
        assert exam.rows == TEST
        if len(examiner.exams) == 1:  # the teacher is the first
            return report
        assert exam.bundle is not None
        tried.append((exam.bundle, examiner.bases[-1]))
        return {**report, "accuracy": 0.5, "ms_per_row": 1.0}

    children.steps["evaluate.report_card"] = evaluate
    return tried


def examinee(bundle: Path, base: Path | None = None) -> Examinee:
    return Examinee(load_bundle(bundle), base or bundle)


def test_teacher_and_student_stand_side_by_side(
    head: Teacher, evaluated: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    student = write_head(tmp_path / "student", None)
    known = {"learned_from": 25}
    rows = compare(task(), head, examinee(student), TEST, [], Inputs(), QUIET, **known)
    assert [(row["who"], row["labels"], row["accuracy"]) for row in rows] == [
        ("teacher", 9, 0.75),
        ("student", 0, 0.5),
    ]
    assert [row["texts_per_s"] for row in rows] == [250.0, 1000.0]
    assert rows[0]["bytes"] == head.bytes
    assert rows[1]["bytes"] == load_bundle(student).weight_bytes
    assert evaluated == [(student, student)]


def test_a_student_on_a_base_counts_the_bases_bytes(
    head: Teacher, evaluated: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    base = head.base
    student = write_head(tmp_path / "student", load_bundle(base).digest)
    known = {"learned_from": 25}
    rows = compare(task(), head, examinee(student, base), TEST, [], Inputs(), QUIET, **known)
    assert rows[1]["bytes"] == load_bundle(student).weight_bytes + load_bundle(base).weight_bytes


@pytest.mark.parametrize("own", [True, False], ids=["with its own encoder", "on the same base"])
def test_a_student_of_as_many_hand_labels_is_shown_beside(
    head: Teacher,
    evaluated: list[tuple[Path, Path]],
    school: FakeSchool,
    tmp_path: Path,
    own: bool,
) -> None:
    digest = school.encoder = None if own else load_bundle(head.base).digest
    student = write_head(tmp_path / "student", digest)
    base = student if own else head.base
    known = {"learned_from": 25}
    rows = compare(task(), head, examinee(student, base), TEST, HAND, Inputs(), QUIET, **known)
    (spec,) = school.specs
    texts_there = [row.text for row in HAND]
    assert len(spec.texts) == 25
    assert set(spec.texts) < set(texts_there)
    assert spec.texts != texts_there[:25], "a file may be sorted by its labels"
    assert (rows[2]["who"], rows[2]["labels"]) == ("student of hand labels", 25)
    other, its_base = evaluated[1]
    assert its_base == (other if own else base)
    assert not other.exists()


def test_hand_labels_that_cannot_be_learned_from_cost_only_their_student(
    head: Teacher, evaluated: list[tuple[Path, Path]], tmp_path: Path
) -> None:
    """The student of the teacher is made by then, and what it is worth is to be said."""
    student = write_head(tmp_path / "student", None)
    known, told = {"learned_from": 25}, list[str]()
    budget = Budget(announce=told.append)
    rows = compare(task(), head, examinee(student), TEST, HAND[::2], Inputs(), budget, **known)
    assert [row["who"] for row in rows] == ["teacher", "student"]
    assert "has one label only" in told[0]
    assert told[0].endswith("So no student of hand labels is shown.")


def test_rows_of_a_label_that_the_student_did_not_learn_count_against_it(
    decoder: Teacher, answered: Answered, tmp_path: Path
) -> None:
    """They were refused, after all the teaching. Two of six rows are scam, which this student never says."""
    examiner = answered(lambda text: said(0.9 if number_of(text) % 2 else 0.1))
    test = [LabelledRow(number, f"test {number}", LABELS[number % 3]) for number in range(6)]
    student = write_head(tmp_path / "student", None)
    known = {"learned_from": 25}
    rows = compare(task(*LABELS), decoder, examinee(student), test, [], Inputs(), QUIET, **known)
    assert examiner.exams[1].with_answers
    assert rows[1]["accuracy"] == pytest.approx(2 / 6, abs=1e-4)  # rows 0 and 1; row 3 is ham, row 4 spam
    low, high = rows[1]["interval"]
    assert 0 <= low < 2 / 6 < high <= 1
    assert rows[1]["calibration_error"] == pytest.approx(0.9 - 2 / 6, abs=1e-4)


def test_a_label_that_few_hand_labels_have_is_left_out_of_theirs(
    decoder: Teacher, evaluated: list[tuple[Path, Path]], tmp_path: Path, school: FakeSchool
) -> None:
    """As of what the teacher says: else the comparison would be missing just where labels are rare."""
    student = write_head(tmp_path / "student", None)
    hand = [*HAND, LabelledRow(50, "hand 50", "scam")]
    known, told = {"learned_from": 51}, list[str]()
    budget = Budget(announce=told.append)
    asked = task(*LABELS, "eggs")
    rows = compare(asked, decoder, examinee(student), TEST, hand, Inputs(), budget, **known)
    (spec,) = school.specs
    assert spec.labels == ("ham", "spam")
    assert sorted(map(number_of, spec.texts)) == list(range(50))
    assert rows[2]["labels"] == 50
    assert told == [
        "Too few of the hand labels drawn are 'scam' (1), 'eggs' (0): their student learns without them."
    ]
