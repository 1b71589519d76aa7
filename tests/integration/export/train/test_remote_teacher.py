"""A teacher on an OpenAI-compatible server: its labels, its failures, and what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.data.rows import LabelledRow
from edgeslm_export.jobs.checkpoint_notes import Notes
from edgeslm_export.train.distill import ask_teacher, find_notes, labels_of
from edgeslm_export.train.remote_teacher import RemoteTeacher, make_remote_teacher

from edgeslm.errors import ExportError
from tests.support.chat_servers import Answer, FakeChatServer, completion, said_by_user
from tests.support.export.fake_teachers import QUIET, number_of, task, texts

TASK = task("spam", "ham", instruction="Is it spam?")


def by_number(body: dict[str, Any]) -> str:
    number = number_of(said_by_user(body).partition("\n")[0])
    return f'{{"label": "{"ham" if number % 2 else "spam"}"}}'


def teacher_of(server: FakeChatServer, **fields: Any) -> RemoteTeacher:
    return RemoteTeacher(server.url, "big", pauses_s=(0.01, 0.01), **fields)


def answered(answer: Answer, number: int = 30, **fields: Any) -> tuple[list[Any], RemoteTeacher]:
    with FakeChatServer(answer).running() as server:
        teacher = teacher_of(server, **fields)
        rows = [LabelledRow(place, text, "spam") for place, text in enumerate(texts(number), 1)]
        return teacher.answers(TASK, rows, QUIET, None), teacher


def test_a_server_labels_texts(tmp_path: Path) -> None:
    with FakeChatServer(by_number).running() as server:
        teacher = teacher_of(server)
        notes = Notes(tmp_path / "notes")
        said = ask_teacher(teacher, TASK, texts(30), notes, QUIET)
        assert said.shares == [[1.0, 0.0], [0.0, 1.0]] * 15
        assert teacher.tokens == 30 * 9
        again = ask_teacher(teacher_of(server), TASK, texts(30), notes, QUIET)
    assert again.shares == said.shares
    assert len(server.asked) == 30, "saved answers aren't asked for again"
    system = server.asked[0]["messages"][0]["content"]
    assert system == "Is it spam?\nLabels:\n- spam\n- ham"


def test_another_model_has_other_notes() -> None:
    url = "https://llm.example.org/v1"
    folders = {find_notes(RemoteTeacher(url, model), TASK, texts(3)).folder for model in ("a", "b")}
    assert len(folders) == 2


def test_a_failing_server_is_asked_again() -> None:
    failures = iter([500, 429, None])
    found, _ = answered(lambda body: next(failures, by_number(body)))
    assert all(found)


def test_a_dead_server_is_an_error_that_keeps_what_is_labelled(tmp_path: Path) -> None:
    done = 0

    def answer(body: dict[str, Any]) -> Any:
        nonlocal done
        done += 1
        return by_number(body) if done <= 22 else 500

    notes = Notes(tmp_path / "notes")
    with FakeChatServer(answer).running() as server:
        with pytest.raises(ExportError, match="it answers with status 500; what is labelled is kept"):
            ask_teacher(teacher_of(server), TASK, texts(40), notes, QUIET)
        asked = len(server.asked)
        server.answer = by_number
        ask_teacher(teacher_of(server), TASK, texts(40), notes, QUIET)
    assert len(server.asked) == asked + 20


@pytest.mark.parametrize("wrong", ["", "neither", '{"label": "eggs"}', "[]"])
def test_what_is_no_label_is_asked_for_once_more(wrong: str) -> None:
    asked = []

    def answer(body: dict[str, Any]) -> str:
        asked.append(body)
        return wrong

    found, _ = answered(answer, 1)
    assert found == [None]
    assert len(asked) == 2


def test_tokens_are_limited_and_the_next_run_asks_for_the_rest(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    with FakeChatServer(by_number).running() as server:
        some = ask_teacher(teacher_of(server, most_tokens=30 * 9), TASK, texts(100), notes, QUIET)
        assert 30 <= len(some.texts) == len(server.asked) <= 50
        all_of_them = ask_teacher(teacher_of(server), TASK, texts(100), notes, QUIET)
    assert len(all_of_them.texts) == len(server.asked) == 100


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_is_an_error_at_once(status: int) -> None:
    with FakeChatServer(lambda body: status).running() as server:
        rows = [LabelledRow(1, "text 1", "spam")]
        with pytest.raises(ExportError, match=f"status {status}"):
            teacher_of(server).answers(TASK, rows, QUIET, None)
    assert len(server.asked) == 1


def test_a_refused_text_has_no_label() -> None:
    found, _ = answered(lambda body: 413 if "text 3" in said_by_user(body) else by_number(body), 5)
    assert [one is None for one in found] == [False, False, False, True, False]


def test_it_is_examined_on_labelled_rows() -> None:
    with FakeChatServer(by_number).running() as server:
        rows = [LabelledRow(place, text, "spam") for place, text in enumerate(texts(10), 1)]
        report = teacher_of(server).examine(TASK, rows, QUIET)
    assert report["accuracy"] == 0.5
    assert report["calibration_error"] == 0.5


def test_it_needs_the_labels() -> None:
    with pytest.raises(ExportError, match="needs the labels"):
        labels_of(RemoteTeacher("http://localhost/v1", "big"), task())


def test_wrong_arguments_are_errors(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    for url, model, key, sentence in (
        ("llm.example.org", "m", None, "must be an address"),
        ("https://llm.example.org/v1", None, None, "--teacher-model"),
        ("http://llm.example.org/v1", "m", tmp_path / "key", "Without TLS"),
        ("https://llm.example.org/v1", "m", tmp_path / "none", "No such file"),
    ):
        with pytest.raises(ExportError, match=sentence):
            make_remote_teacher(url, model, key, None)
    assert make_remote_teacher("https://llm.example.org/v1", "m", tmp_path / "key", 9).most_tokens == 9


def test_an_unlikely_label_is_still_the_one_that_is_learned() -> None:
    def answer(body: dict[str, Any]) -> bytes:
        tokens = [{"token": token, "logprob": -9.0} for token in ('{"label": "', "spam", '"}')]
        return completion('{"label": "spam"}', logprobs={"content": tokens})

    (found,), _ = answered(answer, 1)
    assert found["confidence"] == pytest.approx(0.55)
    assert max(found["scores"], key=found["scores"].__getitem__) == "spam"
