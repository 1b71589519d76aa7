"""The command distill: what it takes, asks and shows, and what it leaves behind. Nothing is taught here."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.cli import distill as command
from edgeslm_export.cli import main
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.train import distill
from edgeslm_export.train.spec import Inputs, TaskSpec

from edgeslm.errors import ExportError
from tests.support.export.fake_teachers import (
    FIGURES,
    FakeExaminer,
    answer_with,
    by_number,
    in_turn,
    make_decoder,
    texts,
)
from tests.support.taught import write_head


class FakeTerminal(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "answer"),
    [("ham\n", "ham"), ("1\n", "spam"), ("\n", None), ("eggs\n0\n3\n2\n", "ham")],
)
def test_a_user_answers_with_a_label_its_number_or_nothing(
    typed: str, answer: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", FakeTerminal(typed))
    assert command._ask("Win a prize", ("spam", "ham"), "spam") == answer
    shown = capsys.readouterr().err
    keys = "Enter drops it, Ctrl-D all that follow"
    assert shown.startswith(f"Win a prize\n  1 spam  2 ham  (the teacher: spam; {keys}) ")


def test_the_end_of_the_input_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be noted that the text is to be dropped, and each text that follows."""
    monkeypatch.setattr("sys.stdin", FakeTerminal(""))
    with pytest.raises(EOFError):
        command._ask("Win a prize", ("spam", "ham"), "spam")


def test_the_source_is_known_by_its_texts() -> None:
    assert command._digest(["a", "b"]) == hashlib.sha256(b'"a"\n"b"').hexdigest()
    assert command._digest(["a\nb"]) != command._digest(["a", "b"])


# --- from end to end, with a fake teacher and a fake school ------------------------------------------


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``main`` sets variables and a signal handler for the whole process."""
    monkeypatch.setattr("os.environ", dict(os.environ))
    monkeypatch.setattr("signal.signal", lambda *_: None)


class FakeSchool:
    """In the place of ``learn_labels``: raises ``failures`` one by one, then makes a student."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.specs: list[TaskSpec] = []

    def __call__(self, spec: TaskSpec, source: object, out: Path, *_: object) -> tuple[None, dict[str, Any]]:
        self.specs.append(spec)
        if self.failures:
            raise self.failures.pop(0)
        write_head(out, None, labels=list(spec.labels))
        return None, {"method": "encoder", "accuracy": 0.9, "rows": len(spec.texts)}


@pytest.fixture
def school(monkeypatch: pytest.MonkeyPatch) -> FakeSchool:
    fake = FakeSchool()
    monkeypatch.setattr(distill, "learn_labels", fake)
    return fake


@pytest.fixture
def examiner(monkeypatch: pytest.MonkeyPatch) -> FakeExaminer:
    return answer_with(monkeypatch)(by_number)


Order = Callable[..., int]


@pytest.fixture
def order(tmp_path: Path, school: FakeSchool, monkeypatch: pytest.MonkeyPatch) -> Order:
    """The command on 60 texts with a decoder as its teacher; its exit status."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(command, "find_inputs", lambda *_: Inputs())
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(60)))
    teacher = make_decoder(tmp_path).bundle.path

    def give(*options: str, labels: Sequence[str] = ("spam", "ham")) -> int:
        (tmp_path / "task.yaml").write_text(f"name: topic\nkind: classify\nlabels: {json.dumps(labels)}\n")
        files = [str(tmp_path / name) for name in ("task.yaml", "texts.jsonl", "out")]
        return main.main(["distill", *files, "--teacher", str(teacher), *options])

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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Teacher and user were asked everything again."""
    school.failures.append(failure)
    monkeypatch.setattr("sys.stdin", FakeTerminal("ham\n" * 20))
    assert order("--ask") == status
    shown = capsys.readouterr().err
    assert "labelled before" not in shown
    assert ("the same command resumes" in shown) == (status == 130)
    monkeypatch.setattr("sys.stdin", FakeTerminal(""))
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
    assert "left out: 'eggs', which 0 texts have; it is never said" in shown.out
    assert school.specs[0].labels == ("spam", "ham")


def test_a_comparison_that_fails_costs_no_answer(
    order: Order,
    examiner: FakeExaminer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``examiner`` answers the teacher's test too; the student's fails."""
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "test 1", "label": "ham"}\n')

    def evaluate(*_: object, **__: object) -> dict[str, Any]:
        raise ExportError("It doesn't load.")

    monkeypatch.setattr(distill, "evaluate_learned", evaluate)
    assert order("--test", str(test)) == 1
    assert len(noted()) == 1
    (tmp_path / "out").rename(tmp_path / "before")
    monkeypatch.setattr(distill, "evaluate_learned", lambda *_, **__: FIGURES)
    assert order("--test", str(test)) == 0
    assert [len(exam.rows) for exam in examiner.exams] == [60, 1, 1], "and the texts were asked once"
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
    order: Order, examiner: FakeExaminer, school: FakeSchool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 was "no number between 0 and 1"."""
    monkeypatch.setattr("sys.stdin", FakeTerminal("ham\nspam\n" * 30))
    assert order("--sure", "1", "--ask") == 0
    assert len(school.specs[0].texts) == 60


@pytest.mark.parametrize("given", ["-0.1", "1.1", "often", "nan", "inf"])
def test_a_confidence_is_from_0_to_1(given: str, order: Order, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        order("--sure", given)
    assert f"{given} is no number from 0 to 1" in capsys.readouterr().err
