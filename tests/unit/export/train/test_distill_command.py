"""The command distill: what it takes, asks and shows, and what it leaves behind. Nothing is taught here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.cli import main
from edgeslm_export.cli.distill import ask_label, texts_digest
from edgeslm_export.jobs.optimum_env import cache_folder

from edgeslm.errors import ExportError
from tests.support.export.fake_teachers import (
    Answered,
    FakeExaminer,
    FakeSchool,
    by_number,
    in_turn,
    make_decoder,
    texts,
)
from tests.support.export.tiny_tasks import write_encoder
from tests.support.taught import write_head

pytestmark = pytest.mark.usefixtures("own_process")


Typing = Callable[[str], None]


@pytest.mark.parametrize(
    ("typed", "answer"),
    [("ham\n", "ham"), ("1\n", "spam"), ("\n", None), ("eggs\n0\n3\n2\n", "ham")],
)
def test_a_user_answers_with_a_label_its_number_or_nothing(
    typed: str, answer: str | None, type_in: Typing, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(typed)
    assert ask_label("Win a prize", ("spam", "ham"), "spam") == answer
    shown = capsys.readouterr().err
    keys = "Enter drops it, Ctrl-D all that follow"
    assert shown.startswith(f"Win a prize\n  1 spam  2 ham  (the teacher: spam; {keys}) ")


def test_the_end_of_the_input_is_no_answer(type_in: Typing) -> None:
    """It would be noted that the text is to be dropped, and each text that follows."""
    type_in("")
    with pytest.raises(EOFError):
        ask_label("Win a prize", ("spam", "ham"), "spam")


def test_the_source_is_known_by_its_texts() -> None:
    assert texts_digest(["a", "b"]) == hashlib.sha256(b'"a"\n"b"').hexdigest()
    assert texts_digest(["a\nb"]) != texts_digest(["a", "b"])


# --- from end to end, with a fake teacher and a fake school ------------------------------------------


@pytest.fixture
def examiner(answered: Answered) -> FakeExaminer:
    return answered(by_number)


Order = Callable[..., int]


@pytest.fixture
def order(tmp_path: Path, school: FakeSchool, monkeypatch: pytest.MonkeyPatch) -> Order:
    """The command on 60 texts with a decoder as its teacher; its exit status."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    encoder = write_encoder(tmp_path / "encoder")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    teacher = make_decoder(tmp_path).bundle.path

    def give(*options: str, labels: Sequence[str] = ("spam", "ham")) -> int:
        (tmp_path / "task.yaml").write_text(f"name: topic\nkind: classify\nlabels: {json.dumps(labels)}\n")
        files = [str(tmp_path / name) for name in ("task.yaml", "texts.jsonl", "out")]
        on = ["--teacher", str(teacher), "--encoder", str(encoder)]
        return main.main(["distill", *files, *on, *options])

    return give


def noted() -> list[Path]:
    return list(cache_folder().glob("distill-*"))


def test_nothing_is_noted_once_the_student_is_there(
    order: Order, examiner: FakeExaminer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert order("--json") == 0
    shown = capsys.readouterr()
    assert "labelled before" not in shown.err
    said = json.loads(shown.out)
    assert (said["dropped"], said["asked"], said["left_out"]) == (20, 0, {})
    assert noted() == []


@pytest.mark.parametrize(
    ("failure", "status"), [(KeyboardInterrupt(), 130), (ExportError("Too few minutes."), 1)]
)
def test_a_repeated_command_goes_on_where_it_was(
    order: Order,
    examiner: FakeExaminer,
    school: FakeSchool,
    failure: BaseException,
    status: int,
    type_in: Typing,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Teacher and user were asked everything again."""
    school.failures.append(failure)
    type_in("ham\n" * 20)
    assert order("--ask") == status
    shown = capsys.readouterr().err
    assert "labelled before" not in shown
    assert ("the same command resumes" in shown) == (status == 130)
    type_in("")
    assert order("--ask") == 0
    shown = capsys.readouterr().err
    assert shown.count("60 texts were labelled before, 20 of them by you; ") == 1
    assert "the teacher:" not in shown, "nothing was left to ask"
    assert len(examiner.exams) == 1
    first, second = school.specs
    assert first.texts == second.texts
    assert first.shares is not None
    assert second.shares is not None
    assert first.shares.tolist() == second.shares.tolist()
    assert noted() == []


def test_a_label_that_is_left_out_is_named_in_the_end(
    order: Order,
    examiner: FakeExaminer,
    school: FakeSchool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def with_eggs(text: str) -> dict[str, Any]:
        known = in_turn(text)
        return {**known, "scores": {**known["scores"], "eggs": 0.0}}

    examiner.answer = with_eggs
    assert order(labels=("spam", "ham", "eggs")) == 0
    shown = capsys.readouterr()
    assert "'eggs' (0): the student learns without them" in shown.err
    assert "left out: 'eggs', which 0 texts have; it is never predicted" in shown.out
    assert school.specs[0].labels == ("spam", "ham")


def test_a_comparison_that_fails_costs_no_answer(
    order: Order,
    examiner: FakeExaminer,
    tmp_path: Path,
) -> None:
    """``examiner`` answers the teacher's test; the student's fails."""
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "test 1", "label": "ham"}\n')
    examiner.refused = tmp_path / "out"
    assert order("--test", str(test)) == 1
    assert len(noted()) == 1
    (tmp_path / "out").rename(tmp_path / "before")
    examiner.refused = None
    assert order("--test", str(test)) == 0
    of_teacher = [len(exam.rows) for exam in examiner.exams if exam.bundle is None]
    assert of_teacher == [60, 1, 1], "and the texts were asked once"
    assert noted() == []


def test_a_label_of_the_test_that_the_teacher_does_not_know_is_refused_at_once(
    tmp_path: Path, examiner: FakeExaminer, order: Order, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended the comparison, when the student was taught. A taught teacher needs no labels in TASK.yaml, so
    nobody had looked."""
    taught = write_head(tmp_path / "taught", None)
    (tmp_path / "bare.yaml").write_text("name: topic\nkind: classify\n")
    (tmp_path / "test.jsonl").write_text('{"text": "test 1", "label": "eggs"}\n')
    files = [str(tmp_path / name) for name in ("bare.yaml", "texts.jsonl", "out")]
    options = ["--teacher", str(taught), "--test", str(tmp_path / "test.jsonl")]
    assert main.main(["distill", *files, *options]) == 1
    assert "Row 1 has the label 'eggs', which is none of spam, ham." in capsys.readouterr().err
    assert examiner.exams == []
    assert noted() == []


@pytest.mark.parametrize(("given", "learned"), [("0", 60), ("0.8", 40), ("0.55", 60)])
def test_how_sure_the_teacher_has_to_be_has_both_ends(
    given: str, learned: int, order: Order, examiner: FakeExaminer, school: FakeSchool
) -> None:
    assert order("--sure", given) == 0
    assert len(school.specs[0].texts) == learned


def test_with_all_certainty_the_user_is_asked_about_the_rest(
    order: Order, examiner: FakeExaminer, school: FakeSchool, type_in: Typing
) -> None:
    """1 was "no number between 0 and 1"."""
    type_in("ham\nspam\n" * 30)
    assert order("--sure", "1", "--ask") == 0
    assert len(school.specs[0].texts) == 60


@pytest.mark.parametrize("given", ["-0.1", "1.1", "often", "nan", "inf"])
def test_a_confidence_is_from_0_to_1(given: str, order: Order, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        order("--sure", given)
    assert f"{given} is not a number from 0 to 1" in capsys.readouterr().err
