"""What no stage is sure of, asked of another node, which is a function here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import (
    REQUEST_ERRORS,
    BrokerError,
    EdgeslmError,
    NoMemory,
    ProtocolError,
    RequestError,
    TimedOut,
)
from edgeslm.messages import ErrorBody, Request, Result, Truncated
from edgeslm.serving.escalation import Escalation, Target
from edgeslm.tasks import Outcome, Task, make_task
from tests.support.services import play


class Own(Task):
    """Takes any answer."""

    kind = "classify"

    async def run(self, *_: object) -> Outcome:
        raise AssertionError

    def result_schema(self) -> dict[str, Any]:
        return {}


def target_of(kind: type[Own] = Own) -> Target:
    return Target("hall-server", "topic", kind("triage", TaskSection(kind="classify")))


TARGET = target_of()
UNSURE = Result(
    "7",
    "triage",
    "abstained",
    {"label": "spam", "confidence": 0.5, "stage": "learned"},
    model="small@sha256:1",
    timings_ms={"queue": 1.0, "prefill": 2.0, "decode": 3.0, "total": 6.0},
    usage={"prompt_tokens": 5, "completion_tokens": 1},
)
ANSWER = Result(
    "another id",
    "topic",
    "ok",
    {"label": "ham", "confidence": 0.9, "stage": "large"},
    model="large@sha256:2",
    timings_ms={"queue": 10.0, "prefill": 20.0, "decode": 30.0, "total": 60.0},
    usage={"prompt_tokens": 50, "completion_tokens": 10},
)


def failed(error: RequestError) -> Result:
    return Result("7", "triage", "error", error=ErrorBody.of(error))


def request(text: Any = "a secret message", **fields: Any) -> Request:
    return Request("triage", text, "7", "r", **{"received_at": time.monotonic(), **fields})


class OtherNode:
    """Answers, raises, or keeps silent (None); ``asked`` is what it was asked."""

    def __init__(self, answer: Result | Exception | None = ANSWER) -> None:
        self.asked: list[tuple[str, str, Any, float]] = []
        self.given_up = 0
        self.was_asked = asyncio.Event()
        self._answer = answer

    async def ask(
        self, node: str, task: str, input: Any, timeout_s: float, options: Mapping[str, Any]
    ) -> Result:
        self.asked.append((node, task, input, timeout_s))
        self.options = dict(options)
        self.was_asked.set()
        if self._answer is None:
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        assert self._answer is not None
        return self._answer

    async def close(self) -> None:
        pass


def make(node: OtherNode, timeout_s: float = 60.0) -> Escalation:
    return Escalation(timeout_s, node)


def asked(
    node: OtherNode, found: Result = UNSURE, sent: Request | None = None, target: Target = TARGET
) -> Result:
    return asyncio.run(make(node).ask(target, sent or request(), found))


# -- whom and whether ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "target"),
    [("", None), ("small", None), ("node:hall-server/topic", TARGET)],
)
def test_the_last_stage_may_be_another_node(last: str, target: Target | None) -> None:
    assert Target.of(last, TARGET.own) == target
    assert target is None or target.stage == last


@pytest.mark.parametrize("code", sorted(REQUEST_ERRORS))
def test_errors_that_say_nothing_of_the_request_are_passed_on(code: str) -> None:
    wanted = make(OtherNode()).is_wanted(failed(REQUEST_ERRORS[code]("x")))
    assert wanted == (code in {"model_unavailable", "no_memory", "too_long"})


def test_what_is_sure_is_not_passed_on() -> None:
    escalation = make(OtherNode())
    assert escalation.is_wanted(UNSURE)
    assert not escalation.is_wanted(ANSWER)


def test_a_contradiction_is_told_and_not_settled_elsewhere() -> None:
    found = {"text": "", "citations": [], "conflict": True, "passages": []}
    assert not make(OtherNode()).is_wanted(Result("x", "manual", "abstained", found))


def test_without_a_bus_there_is_no_other_node() -> None:
    """As for `edgeslm try`."""
    escalation = Escalation(60.0)
    assert asyncio.run(escalation.ask(TARGET, request(), UNSURE)) is UNSURE


# -- its answer ------------------------------------------------------------------------------------


def test_the_other_node_is_asked_for_its_task_with_the_text() -> None:
    node = OtherNode()
    asked(node)
    assert [call[:3] for call in node.asked] == [("hall-server", "topic", "a secret message")]


def test_its_answer_is_the_result_of_this_request() -> None:
    result = asked(OtherNode())
    assert (result.id, result.task, result.status) == ("7", "triage", "ok")
    assert result.result == {"label": "ham", "confidence": 0.9, "stage": "node:hall-server/topic"}
    assert result.model == "large@sha256:2"


def test_times_and_tokens_of_both_nodes_are_added() -> None:
    result = asked(OtherNode(), sent=request(received_at=time.monotonic() - 10))
    assert {key: result.timings_ms[key] for key in ("queue", "prefill", "decode")} == {
        "queue": 11.0,
        "prefill": 22.0,
        "decode": 33.0,
    }
    assert result.timings_ms["total"] >= 10_000, "the whole way, the one over the bus too"
    assert result.usage == {"prompt_tokens": 55, "completion_tokens": 11}


def test_tokens_that_were_spent_here_are_not_forgotten() -> None:
    """A node of another make may not say what it spent."""
    answer = Result("x", "topic", "ok", {"label": "ham"})
    assert asked(OtherNode(answer)).usage == UNSURE.usage


def test_how_much_was_read_is_said_by_the_node_that_answered() -> None:
    answer = Result("x", "topic", "ok", {"label": "ham"}, truncated=Truncated(3, 9))
    assert asked(OtherNode(answer)).truncated == Truncated(3, 9)


def test_it_may_be_unsure_too() -> None:
    answer = Result("x", "topic", "abstained", {"label": "ham", "stage": "large"})
    result = asked(OtherNode(answer))
    assert (result.status, result.result) == (
        "abstained",
        {"label": "ham", "stage": "node:hall-server/topic"},
    )


def test_it_may_answer_what_failed_here() -> None:
    result = asked(OtherNode(), failed(NoMemory("x")))
    assert (result.status, result.error, result.usage) == ("ok", None, ANSWER.usage)


# -- no answer -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [BrokerError("nobody is there"), TimedOut("not in time"), ProtocolError("no result")]
)
@pytest.mark.parametrize("found", [UNSURE, failed(NoMemory("x"))])
def test_what_was_found_here_stands_where_nobody_answers(error: EdgeslmError, found: Result) -> None:
    assert asked(OtherNode(error), found) is found


@pytest.mark.parametrize("code", sorted(REQUEST_ERRORS))
def test_an_error_of_the_other_node_is_no_answer(code: str) -> None:
    answer = failed(REQUEST_ERRORS[code]("It quotes a secret message."))
    assert asked(OtherNode(answer)) is UNSURE


def test_a_fault_of_the_program_is_told_and_costs_no_result(caplog: pytest.LogCaptureFixture) -> None:
    assert asked(OtherNode(ZeroDivisionError())) is UNSURE
    assert [record.getMessage() for record in caplog.records] == [
        "task triage: asking node:hall-server/topic failed: ZeroDivisionError"
    ]


def test_no_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edgeslm.serving"):
        asked(OtherNode(failed(NoMemory("a secret message"))))
        asked(OtherNode(BrokerError("nobody is there")))
    assert [record.getMessage() for record in caplog.records] == [
        "task triage: node:hall-server/topic answers with an error: no_memory",
        "task triage: node:hall-server/topic doesn't answer: nobody is there",
    ]


# -- time ------------------------------------------------------------------------------------------


def test_an_expired_request_is_not_passed_on() -> None:
    node = OtherNode()
    assert asked(node, sent=request(expires_at=time.monotonic() - 1)) is UNSURE
    assert node.asked == []


def test_it_has_the_time_that_is_left() -> None:
    node = OtherNode()
    asked(node, sent=request(expires_at=time.monotonic() + 30))
    asked(node, sent=request(expires_at=time.monotonic() + 3000))
    first, second = (call[3] for call in node.asked)
    assert 0 < first <= 30
    assert 59 < second <= 60, "never more than a request may run here"


def test_an_object_is_not_passed_on() -> None:
    node = OtherNode()
    assert asked(node, sent=request({"messages": []})) is UNSURE
    assert node.asked == []


# -- cancel ----------------------------------------------------------------------------------------


def when_waiting(act: Callable[[Escalation, asyncio.Task[Result], OtherNode], None]) -> asyncio.Task[Result]:
    """Does something while a request waits for a node that keeps silent; the task, done."""
    tasks: list[asyncio.Task[Result]] = []

    async def scene() -> None:
        node = OtherNode(None)
        escalation = make(node)
        task = asyncio.create_task(escalation.ask(TARGET, request(), UNSURE))
        await node.was_asked.wait()
        act(escalation, task, node)
        await asyncio.wait([task])
        tasks.append(task)
        assert node.given_up == 1, "nobody waits for that node any more"
        assert escalation.cancel(lambda request: True) == 0

    play(scene)
    return tasks[0]


def test_a_request_that_waits_for_another_node_can_be_cancelled() -> None:
    def cancel(escalation: Escalation, task: asyncio.Task[Result], node: OtherNode) -> None:
        assert escalation.cancel(lambda request: request.id == "7") == 1

    result = when_waiting(cancel).result()
    assert result.error is not None
    assert (result.id, result.error.code, result.error.message) == (
        "7",
        "cancelled",
        "cancelled while it was running",
    )


def test_another_request_is_not_cancelled() -> None:
    def cancel(escalation: Escalation, task: asyncio.Task[Result], node: OtherNode) -> None:
        assert escalation.cancel(lambda request: request.id == "8") == 0
        assert not task.done()
        escalation.cancel(lambda request: True)

    when_waiting(cancel)


def test_a_request_whose_result_nobody_wants_any_more_has_none() -> None:
    """The node stops: an answer would take the request from those that are delivered again."""

    def give_up(escalation: Escalation, task: asyncio.Task[Result], node: OtherNode) -> None:
        task.cancel()

    assert when_waiting(give_up).cancelled()


@pytest.mark.parametrize("own", [{"labels": ["x", "y"]}, {"schema": {"type": "object"}}])
def test_a_request_with_labels_or_a_schema_of_its_own_stays_here(own: dict[str, Any]) -> None:
    """The other node knows its own labels alone."""
    node = OtherNode()
    assert asked(node, sent=request(options=own)) == UNSURE
    assert node.asked == []


def test_what_was_spent_here_is_no_time_for_the_other_node() -> None:
    node = OtherNode()
    asked(node, sent=request(received_at=time.monotonic() - 50))
    assert node.asked[0][3] <= 10


def test_what_is_no_answer_of_the_task_here_is_not_believed() -> None:
    seen: list[tuple[object, str]] = []

    class Refusing(Own):
        def is_answer(self, result: Mapping[str, Any], message: str) -> bool:
            seen.append((result["label"], message))
            return False

    assert asked(OtherNode(), target=target_of(Refusing)) == UNSURE
    assert seen == [("ham", "a secret message")]


def test_what_was_found_here_goes_along_and_the_answer_is_brought_back() -> None:
    class Referring(Own):
        def refer(self, request: Request, found: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"context": f"{request.input}, {found['label']}"}

        def bring_back(
            self, request: Request, found: Mapping[str, Any], answer: Mapping[str, Any]
        ) -> Mapping[str, Any] | None:
            return {"label": f"{found['label']} or {answer['label']}"}

    node = OtherNode()
    result = asked(node, target=target_of(Referring))
    assert node.options == {"context": "a secret message, spam"}
    assert result.result == {"label": "spam or ham", "stage": "node:hall-server/topic"}


def test_an_answer_that_is_of_no_use_leaves_what_was_found_here() -> None:
    class Useless(Own):
        def bring_back(self, *_: object) -> None:
            return None

    assert asked(OtherNode(), target=target_of(Useless)) == UNSURE


# -- chats and tool calls --------------------------------------------------------------------------

CHAT = {"messages": [{"role": "user", "content": "On!"}]}
TOOLS = [{"name": "turn_on"}]
NOT_SURE = Result("7", "assist", "abstained", {"text": "", "finish_reason": "stop"})


def of_generate() -> Target:
    section = TaskSection(kind="generate", model="small")
    return Target("hall-server", "assist", make_task("assist", section))


def test_a_chat_goes_out_with_its_tools() -> None:
    call = {"name": "turn_on", "arguments": {}}
    node = OtherNode(
        Result("1", "assist", "ok", {"text": "", "finish_reason": "tool_calls", "tool_calls": [call]})
    )
    sent = request(CHAT, options={"tools": TOOLS, "priority": 9, "stream": True})
    result = asked(node, NOT_SURE, sent, of_generate())
    assert result.result == {
        "text": "",
        "finish_reason": "tool_calls",
        "tool_calls": [call],
        "stage": "node:hall-server/assist",
    }
    assert node.asked[0][2] == CHAT
    assert node.options == {"tools": TOOLS}


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "", "tool_calls": [{"name": "explode", "arguments": {}}]},
        {"text": "", "tool_calls": [{"name": "turn_on"}]},
        {"text": "", "tool_calls": "turn_on"},
        {"text": ""},
        {"label": "on"},
    ],
)
def test_a_call_of_another_tool_is_no_answer(answer: dict[str, Any]) -> None:
    node = OtherNode(Result("1", "assist", "ok", answer))
    assert asked(node, NOT_SURE, request(CHAT, options={"tools": TOOLS}), of_generate()) is NOT_SURE
