from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Call, Cost, Generate, Output, Text, Turn
from edgeslm.errors import InvalidRequest, NoMemory, TooLong
from edgeslm.messages import Progress, Request, Truncated
from edgeslm.tasks import Outcome, Task, make_task
from edgeslm.tasks.summarize import INSTRUCTION
from tests.support.fakes import FakeEngine

REPORT = "The press in hall 3 overheated twice on Monday. It was stopped, and the bearing replaced."


def make(**fields: Any) -> Task:
    section = {"kind": "summarize", "model": "small", **fields}
    return make_task("brief", TaskSection.model_validate(section, strict=False))


def run(
    task: Task,
    text: str | Mapping[str, Any],
    engine: Any,
    on_chunk: Callable[[str], None] | None = None,
    **options: Any,
) -> Outcome:
    sent = Request("brief", text, "1", "r", options=options)
    task.check(sent)
    outcome = asyncio.run(task.run(sent, engine, on_chunk))
    jsonschema.validate(outcome.result, task.result_schema())
    return outcome


class Reader:
    """An engine that reads ``room`` characters at most and says the first sentence of what it reads."""

    def __init__(
        self, room: int, say: Callable[[str], str] = lambda text: text.partition(".")[0] + "."
    ) -> None:
        self.read: list[str] = []
        self._room = room
        self._say = say

    async def __call__(self, call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
        assert isinstance(call, Generate)
        text = call.prompt.turns[-1].parts[0]
        assert isinstance(text, Text)
        if len(text.value) > self._room:
            raise TooLong(f"{len(text.value)} are more than {self._room}")
        self.read.append(text.value)
        said = self._say(text.value)
        if on_chunk is not None:
            on_chunk(said)
        return Output(Cost(1, 2, 3, 4), said)


SECTIONS = [
    f"Machine M{number} makes part P{number}. " + "It runs day and night. " * 20 for number in range(12)
]
LONG = "\n\n".join(SECTIONS)


def test_summarizes() -> None:
    engine = FakeEngine(Output(text=" The press overheated. ", truncated=Truncated(5, 9)))
    task = make(overflow="middle", examples=[{"input": "long", "output": "short"}])
    outcome = run(task, REPORT, engine, max_tokens=5)
    assert outcome.result == {"text": "The press overheated.", "sources": ["input"], "extractive": False}
    assert outcome.truncated == Truncated(5, 9)
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert (call.max_tokens, call.stream, call.prompt.overflow) == (5, False, "middle")
    assert call.prompt.turns == (
        Turn("system", (INSTRUCTION,)),
        Turn("user", ("long",)),
        Turn("assistant", ("short",)),
        Turn("user", (Text(REPORT, cut=True),)),
    )


def test_a_sentence_that_the_text_does_not_support_is_left_out() -> None:
    engine = FakeEngine(
        Output(text="The press overheated twice. It was sold to Peter. The bearing was replaced.")
    )
    assert (
        run(make(), REPORT, engine).result["text"] == "The press overheated twice. The bearing was replaced."
    )


def test_where_nothing_is_left_the_text_speaks_for_itself() -> None:
    outcome = run(make(), REPORT, FakeEngine(Output(text="All is well in Paris.")))
    assert outcome.status == "ok"
    assert outcome.result["extractive"] is True
    assert outcome.result["text"] == "The press in hall 3 overheated twice on Monday."
    assert outcome.result["sources"] == ["input[0:47]"]
    outcome = run(make(), REPORT, FakeEngine(Output(text="All is well in Paris. It is sunny in Rome.")))
    assert outcome.result["text"] == REPORT
    assert outcome.result["sources"] == ["input[0:47]", "input[48:89]"]


def test_a_text_without_words_is_its_own_summary() -> None:
    outcome = run(make(), "... !!!", FakeEngine(Output(text="All is well.")))
    assert (outcome.status, outcome.result["text"]) == ("ok", "... !!!")


def test_nothing_is_no_summary() -> None:
    outcome = run(make(grounded=False), "...", FakeEngine(Output(text=" ")))
    assert (outcome.status, outcome.result["text"]) == ("ok", "...")


def test_sentences_pass_unchecked_where_the_task_says_so() -> None:
    task = make(instruction="In French.", grounded=False)
    engine = FakeEngine(Output(text="La presse a surchauffé."))
    assert run(task, REPORT, engine).result["text"] == "La presse a surchauffé."
    (call,) = engine.calls
    assert isinstance(call, Generate)
    assert call.prompt.turns[0] == Turn("system", ("In French.",))


def test_a_stream_has_no_sentence_that_the_result_lacks() -> None:
    pieces = ["The press over", "heated. Peter ", "bought it. The", " bearing was replaced."]
    engine = FakeEngine(Output(text="".join(pieces)), chunks=pieces)
    heard: list[str] = []
    outcome = run(make(), REPORT, engine, heard.append, stream=True)
    assert heard == ["The press overheated.", " The bearing was replaced."]
    assert outcome.result["text"] == "".join(heard)


def test_a_text_beyond_the_context_is_read_in_parts() -> None:
    task, engine = make(max_tokens=100, instruction=INSTRUCTION), Reader(2200)
    task.context_length = 400
    outcome = run(task, LONG, engine)
    assert len(engine.read) > 5
    assert "".join("".join(part.split()) for part in engine.read[:-1]) == "".join(LONG.split())
    assert engine.read[-1].startswith("Machine M0 makes part P0.\nMachine M")
    assert outcome.result == {
        "text": "Machine M0 makes part P0.",
        "sources": [f"input[0:{len(engine.read[0])}]"],
        "extractive": False,
    }
    assert outcome.cost == Cost(1, 2, 3, 4) + Cost(*(len(engine.read[:-1]) * part for part in (1, 2, 3, 4)))


def test_what_is_said_of_many_parts_leaves_some_out_which_follow() -> None:
    """A sentence for three parts at least, within ``max_tokens``."""
    task, engine = make(max_tokens=100), Reader(2200)
    task.context_length = 400
    outcome = run(task, LONG, engine)
    sentences = outcome.result["text"].removesuffix(".").split(". ")
    assert sentences[0] == "Machine M0 makes part P0"
    assert len(sentences) == len(set(sentences)) == len(outcome.result["sources"]) == 4
    assert sentences == sorted(sentences, key=lambda one: int(one.rpartition("P")[2]))
    task, engine = make(max_tokens=15), Reader(2200)
    task.context_length = 400
    assert len(run(task, LONG, engine).result["text"]) <= 60


def test_what_follows_is_said_once() -> None:
    """Also where a note is the text's own, which is named by its sentence and not by its part."""
    parts = [
        f"{'All is well.' if number % 2 else f'Valve V{number} drips.'} {SECTIONS[0][26:]}"
        for number in range(12)
    ]
    for say in (lambda text: text.partition(".")[0] + ".", lambda text: "All is well in Paris."):
        task = make(max_tokens=100)
        task.context_length = 400
        text = run(task, "\n\n".join(parts), Reader(2200, say)).result["text"]
        sentences = [one for one in text.removesuffix(".").split(". ") if one]
        assert len(sentences) == len(set(sentences)), text


def test_what_follows_has_no_line_breaks() -> None:
    def say(text: str) -> str:
        return text.partition(".")[0].replace(" makes", "\n  makes") + "."

    task = make(max_tokens=100)
    task.context_length = 400
    _, *others = run(task, LONG, Reader(2200, say)).result["text"].split(". ")
    assert len(others) >= 2
    assert not any("\n" in one for one in others)


def test_what_follows_is_streamed_too() -> None:
    task, heard = make(max_tokens=100), list[Any]()
    task.context_length = 400
    outcome = run(task, LONG, Reader(2200), heard.append, stream=True)
    assert outcome.result["text"].count(".") == 4
    assert "".join(piece for piece in heard if isinstance(piece, str)) == outcome.result["text"]


def test_where_the_guess_was_wrong_parts_become_shorter() -> None:
    task, engine = make(), Reader(900)
    outcome = run(task, LONG, engine)  # nobody knows the context
    assert max(map(len, engine.read)) <= 900
    assert "".join("".join(part.split()) for part in engine.read).startswith("".join(LONG.split()))
    assert outcome.result["text"].startswith("Machine M0 makes part P0.")


def test_what_is_said_of_parts_is_read_in_rounds_until_it_fits() -> None:
    task, engine = make(max_tokens=10), Reader(500)
    task.context_length = 200
    text = "\n\n".join(
        f"Machine M{number} makes part P{number} for car C{number}. " + "Yes. " * 70 for number in range(60)
    )
    outcome = run(task, text, engine)
    assert outcome.result["text"] == "Machine M0 makes part P0 for car C0."
    assert len(outcome.result["sources"]) == 1


def test_a_model_that_makes_nothing_shorter_comes_to_an_end() -> None:
    task, engine = make(max_tokens=10), Reader(500, say=lambda text: text)
    task.context_length = 200
    outcome = run(task, LONG, engine)
    assert 0 < len(outcome.result["text"]) <= 500
    assert outcome.result["sources"]


def test_a_part_of_which_nothing_holds_speaks_for_itself() -> None:
    task, engine = make(), Reader(2000, say=lambda text: "All is well in Paris.")
    task.context_length = 600
    outcome = run(task, LONG, engine)
    assert outcome.result["extractive"] is True
    for source in outcome.result["sources"]:
        start, _, end = source.removeprefix("input[").removesuffix("]").partition(":")
        assert LONG[int(start) : int(end)] in outcome.result["text"]


def test_progress_comes_with_the_stream() -> None:
    task, engine = make(), Reader(2000)
    task.context_length = 600
    heard: list[str] = []
    outcome = run(task, LONG, engine, heard.append, stream=True)
    steps = [(piece.done, piece.of) for piece in heard if isinstance(piece, Progress)]
    parts = len(steps) - 1
    assert steps == [(done, parts + 1) for done in range(parts + 1)]
    assert "".join(heard) == outcome.result["text"]


def test_it_can_be_cancelled_between_parts() -> None:
    async def main() -> list[str]:
        engine = Reader(2000)
        task = make()
        task.context_length = 600
        begun = asyncio.Event()

        async def ask(call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
            output = await engine(call, on_chunk)
            begun.set()
            await asyncio.sleep(0)
            return output

        work = asyncio.create_task(task.run(Request("brief", LONG, "1", "r"), ask, None))
        await begun.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return engine.read

    assert len(asyncio.run(main())) == 1


def test_a_text_that_there_is_no_memory_for_is_read_in_parts() -> None:
    class Small(Reader):
        async def __call__(self, call: Call, on_chunk: Callable[[str], None] | None = None) -> Output:
            try:
                return await super().__call__(call, on_chunk)
            except TooLong:
                raise NoMemory("no room") from None

    assert run(make(), LONG, Small(2000)).result["text"].startswith("Machine M0 makes part P0.")


@pytest.mark.parametrize("overflow", ["error", "head"])
def test_a_task_that_says_what_to_do_with_long_texts_is_obeyed(overflow: str) -> None:
    task, engine = make(overflow=overflow), FakeEngine(TooLong("too long"))
    task.context_length = 400
    with pytest.raises(TooLong):
        run(task, LONG, engine)
    assert len(engine.calls) == 1


def test_a_prompt_that_leaves_no_room_is_an_error() -> None:
    with pytest.raises(TooLong, match="ask for less"):
        run(make(), LONG, Reader(10))


def test_a_digest_of_messages() -> None:
    messages = [{"id": f"m{number}", "text": f"Old belt {number} tore"} for number in range(3)]
    said = "Old belt * tore. Belt tore. The old belts tore. Peter did it."
    engine = FakeEngine(Output(text=said, cost=Cost(1, 1, 1, 1)))
    outcome = run(make(), {"messages": messages}, engine)
    assert outcome.result["text"] == "3 messages. The old belts tore."
    assert outcome.result["points"] == [{"text": "Old belt * tore", "count": 3, "ids": ["m0", "m1", "m2"]}]
    assert outcome.cost == Cost(1, 1, 1, 1)


def test_points_that_are_too_long_for_the_model_are_shown_in_part() -> None:
    words = ["alpha", "beta", "gamma", "delta"]
    messages = [{"text": f"{a} {b} {c} {d}"} for a in words for b in words for c in words for d in "xyz"]
    task, engine = make(), Reader(200)
    outcome = run(task, {"messages": messages}, engine)
    assert len(engine.read) == 1
    assert outcome.result["messages"] == len(messages)


def test_another_object_is_no_text() -> None:
    with pytest.raises(InvalidRequest, match="messages"):
        make().check(Request("brief", {"a": 1}, "1", "r"))
