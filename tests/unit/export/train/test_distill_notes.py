"""What teacher and user said before is not asked again, whatever ended the command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.evaluate.task_eval import Exam
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.jobs.subprocess_job import OnProgress
from edgeslm_export.train.distill import Teacher, ask_teacher, find_notes
from edgeslm_export.train.spec import Budget

from edgeslm.bundle.manifest import load_bundle
from tests.support.export.children import FakeChildren
from tests.support.export.fake_teachers import (
    QUIET,
    Answer,
    Answered,
    by_number,
    in_turn,
    task,
    texts,
)
from tests.support.nodes import write_bundle
from tests.support.taught import change_manifest


def test_what_the_teacher_said_is_not_asked_again(head: Teacher, answered: Answered, notes: Notes) -> None:
    fake = answered(by_number)
    told: list[str] = []
    first = ask_teacher(head, task(), texts(60), notes, Budget(announce=told.append))
    assert told == []
    assert ask_teacher(head, task(), texts(60), notes, Budget(announce=told.append)) == first
    assert len(fake.exams) == 1
    assert told == [f"60 texts were labelled before; to ask again remove {notes.folder}."]
    assert ask_teacher(head, task(), texts(60), notes, QUIET, sure=0.5).dropped == 0
    assert len(fake.exams) == 1, "how sure it has to be is nothing that it is asked"


def test_an_interrupted_teacher_goes_on_with_the_next_block(
    head: Teacher, answered: Answered, notes: Notes
) -> None:
    def interrupted(text: str) -> Answer:
        if text == "text 40":
            raise KeyboardInterrupt
        return in_turn(text)

    answered(interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask_teacher(head, task(), texts(60), notes, QUIET, block=16)
    fake, told = answered(in_turn), list[str]()
    found = ask_teacher(head, task(), texts(60), notes, Budget(announce=told.append), block=16)
    assert [[row.text for row in exam.rows] for exam in fake.exams] == [texts(48)[32:], texts(60)[48:]]
    assert told[0].startswith("32 texts were labelled before; ")
    assert found.texts == texts(60)
    assert found.shares == [pytest.approx(pair) for pair in ([0.8, 0.2], [0.2, 0.8])] * 30


def test_progress_is_that_of_all_blocks(head: Teacher, notes: Notes, children: FakeChildren) -> None:
    seen: list[tuple[int, int]] = []

    def examine(task: dict[str, Any], on_progress: OnProgress | None) -> dict[str, Any]:
        exam = Exam.parse(task["exam"])
        assert on_progress is not None
        on_progress(0, 1, "loading")
        on_progress(len(exam.rows) // 2, len(exam.rows), "asking")
        return {"answers": [in_turn(row.text) for row in exam.rows]}

    children.steps["evaluate.report_card"] = examine
    budget = Budget(announce=lambda _: None, on_progress=lambda done, of, what: seen.append((done, of)))
    ask_teacher(head, task(), texts(40), notes, budget, block=16)
    assert seen == [(0, 40), (8, 40), (16, 40), (24, 40), (32, 40), (36, 40)]


class FakeUser:
    """Answers one by one; ``KeyboardInterrupt`` or ``EOFError`` among the answers ends it."""

    def __init__(self, *answers: str | type[BaseException] | None) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, text: str, labels: Sequence[str], guess: str) -> str | None:
        answer = self._answers.pop(0)
        if isinstance(answer, type):
            raise answer
        self.asked.append(text)
        return answer


def test_what_the_user_typed_outlives_an_interruption(
    head: Teacher, answered: Answered, notes: Notes
) -> None:
    """Of texts 0, 3, 6 ...: one is labelled, one dropped, and the third one is too much."""
    answered(by_number)
    with pytest.raises(KeyboardInterrupt):
        ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=FakeUser("ham", None, KeyboardInterrupt))
    user, told = FakeUser(*["spam"] * 18), list[str]()
    found = ask_teacher(head, task(), texts(60), notes, Budget(announce=told.append), ask_user=user)
    assert told[0].startswith("60 texts were labelled before, 1 of them by you; ")
    assert user.asked[0] == "text 6"
    assert (found.asked, found.dropped) == (19, 1)
    assert found.shares[found.texts.index("text 0")] == [0.0, 1.0]
    assert "text 3" not in found.texts


def test_what_the_user_typed_counts_whatever_is_asked_later(
    head: Teacher, answered: Answered, notes: Notes
) -> None:
    answered(by_number)
    ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=FakeUser("ham", None, EOFError))
    found = ask_teacher(head, task(), texts(60), notes, QUIET, sure=0.5)
    assert found.shares[found.texts.index("text 0")] == [0.0, 1.0]
    assert (found.asked, found.dropped) == (1, 1)


def test_who_wants_to_be_asked_no_more_said_nothing_of_the_rest(
    head: Teacher, answered: Answered, notes: Notes
) -> None:
    """Each text that followed would be dropped for good."""
    answered(by_number)
    found = ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=FakeUser("ham", EOFError))
    assert (found.asked, found.dropped) == (1, 19)
    user = FakeUser(*["spam"] * 19)
    assert ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=user).asked == 20


@pytest.mark.parametrize("left", [0, 1, 4, 9])
def test_a_torn_line_costs_its_own_answer(head: Teacher, answered: Answered, notes: Notes, left: int) -> None:
    """``left`` characters of the second answer were written; the third one still has a line of its own."""
    answered(by_number)
    ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=FakeUser("ham", "ham", EOFError))
    file = notes.folder / "typed.jsonl"
    file.write_bytes(file.read_bytes()[: len('\n[0, "ham"]') + left])
    user = FakeUser("spam", EOFError)
    ask_teacher(head, task(), texts(60), notes, QUIET, ask_user=user)
    assert user.asked == ["text 3"]
    found = ask_teacher(head, task(), texts(60), notes, QUIET)
    assert found.shares[found.texts.index("text 0")] == [0.0, 1.0]
    assert found.shares[found.texts.index("text 3")] == [1.0, 0.0]


def test_notes_that_make_no_sense_are_skipped(head: Teacher, answered: Answered, notes: Notes) -> None:
    answered(by_number)
    lines = ["5", "null", "[]", '["a", "ham"]', '[999, "ham"]', '[-1, "ham"]', '[3, "eggs"]', '[3, "ham"]']
    (notes.folder / "typed.jsonl").write_bytes(b"\xff\n" + "\n".join(lines).encode())
    found = ask_teacher(head, task(), texts(60), notes, QUIET)
    assert (found.asked, found.dropped) == (1, 19)


def test_notes_are_of_one_teacher_task_and_texts(
    head: Teacher, decoder: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told = task("spam", "ham", instruction="Is it wanted?")
    folders = [
        find_notes(*order).folder
        for order in (
            (decoder, told, texts(3)),
            (decoder, task("spam", "ham", instruction="Is it spam?"), texts(3)),
            (decoder, task("spam", "ham", "eggs", instruction="Is it wanted?"), texts(3)),
            (decoder, told, texts(4)),
            (head, told, texts(3)),
            (Teacher(decoder.bundle, decoder.base, "sha256:1"), told, texts(3)),
        )
    ]
    assert len(set(folders)) == len(folders)
    assert find_notes(decoder, told, texts(3)).folder == folders[0]


def test_a_checkpoint_is_known_by_its_revision(
    decoder: Teacher, head: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is exported of it may differ by a figure in its report."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = write_bundle(tmp_path / "other")
    change_manifest(other, name="other")
    told = task("spam", "ham")
    mine = find_notes(Teacher(decoder.bundle, decoder.base, "sha256:1"), told, texts(3)).folder
    assert find_notes(Teacher(load_bundle(other), other, "sha256:1"), told, texts(3)).folder == mine
