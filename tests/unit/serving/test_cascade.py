from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal

import pytest

from edgeslm.engine.calls import Cost
from edgeslm.errors import (
    REQUEST_ERRORS,
    ModelUnavailable,
    NoMemory,
    RequestError,
    TooLong,
)
from edgeslm.messages import Request, Truncated
from edgeslm.serving.cascade import Stage, StageAnswer, run_stages
from edgeslm.tasks import Outcome

REQUEST = Request("topic", "a secret message", "7", "r")
COST = Cost(1.0, 2.0, 3, 4)

PASSED_ON = (ModelUnavailable, NoMemory, TooLong)


def said(
    status: Literal["ok", "abstained"], label: str, cost: Cost = COST, truncated: Truncated | None = None
) -> StageAnswer:
    return StageAnswer(Outcome(status, {"label": label}, cost, truncated), f"model of {label}")


class Stages:
    """Stages that answer or raise in turn; ``asked`` are those that were."""

    def __init__(self, *answers: StageAnswer | Exception) -> None:
        self.asked: list[int] = []
        self.stages = [self._stage(number, answer) for number, answer in enumerate(answers)]

    def run(self) -> StageAnswer:
        return asyncio.run(run_stages(self.stages, REQUEST))

    def _stage(self, number: int, answer: StageAnswer | Exception) -> Stage:
        async def ask(request: Request) -> StageAnswer:
            assert request is REQUEST
            self.asked.append(number)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Stage(f"stage{number}", ask)


def test_the_first_stage_that_is_sure_answers() -> None:
    stages = Stages(said("ok", "a"), said("ok", "b"))
    assert stages.run() == said("ok", "a")
    assert stages.asked == [0], "what a later one costs is not spent"


def test_a_stage_that_isnt_sure_passes_on() -> None:
    stages = Stages(said("abstained", "a"), said("abstained", "b"), said("ok", "c"), said("ok", "d"))
    answer = stages.run()
    assert (answer.outcome.status, answer.outcome.result, answer.model) == (
        "ok",
        {"label": "c"},
        "model of c",
    )
    assert stages.asked == [0, 1, 2]


def test_what_no_stage_is_sure_of_gets_the_last_answer() -> None:
    answer = Stages(said("abstained", "a"), said("abstained", "b")).run()
    assert (answer.outcome.status, answer.outcome.result) == ("abstained", {"label": "b"})
    assert answer.model == "model of b"


def test_the_cost_is_that_of_all_that_were_asked() -> None:
    answer = Stages(
        said("abstained", "a", Cost(1.0, 2.0, 3, 4)),
        TooLong("x"),
        said("ok", "b", Cost(10.0, 20.0, 30, 40)),
        said("ok", "c", Cost(100.0, 200.0, 300, 400)),
    ).run()
    assert answer.outcome.cost == Cost(11.0, 22.0, 33, 44)


def test_how_much_was_read_is_said_by_the_stage_that_answered() -> None:
    first = said("abstained", "a", truncated=Truncated(3, 9))
    assert Stages(first, said("ok", "b")).run().outcome.truncated is None
    assert Stages(said("abstained", "a"), said("ok", "b", truncated=Truncated(5, 9))).run().outcome.truncated


@pytest.mark.parametrize("error", PASSED_ON)
def test_a_stage_that_cant_answer_passes_on(error: type[RequestError]) -> None:
    stages = Stages(error("x"), said("ok", "b"))
    assert stages.run() == said("ok", "b")
    assert stages.asked == [0, 1]


@pytest.mark.parametrize("error", PASSED_ON)
def test_an_unsure_answer_is_better_than_none(error: type[RequestError]) -> None:
    answer = Stages(said("abstained", "a"), error("x")).run()
    assert answer == said("abstained", "a")


@pytest.mark.parametrize("error", [error for error in REQUEST_ERRORS.values() if error not in PASSED_ON])
@pytest.mark.parametrize("before", [[], [said("abstained", "a")]])
def test_what_is_wrong_with_the_request_is_wrong_at_once(
    error: type[RequestError], before: Sequence[StageAnswer]
) -> None:
    stages = Stages(*before, error("x"), said("ok", "b"))
    with pytest.raises(error):
        stages.run()
    assert stages.asked == list(range(len(before) + 1))


def test_a_fault_of_the_program_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        Stages(ZeroDivisionError(), said("ok", "b")).run()


def test_where_no_stage_can_answer_the_last_error_is_the_result() -> None:
    stages = Stages(TooLong("9 tokens and room for 3"), NoMemory("no room"), ModelUnavailable("gone"))
    with pytest.raises(ModelUnavailable, match="gone"):
        stages.run()
    assert stages.asked == [0, 1, 2]


def test_a_task_of_one_stage_answers_as_that_stage(caplog: pytest.LogCaptureFixture) -> None:
    assert Stages(said("ok", "a")).run() == said("ok", "a")
    assert Stages(said("abstained", "a")).run() == said("abstained", "a")
    with pytest.raises(NoMemory, match="no room"):
        Stages(NoMemory("no room")).run()
    assert caplog.records == [], "nothing was passed on"


def test_no_stages_are_an_error() -> None:
    with pytest.raises(RequestError, match="no stages"):
        Stages().run()


def test_passing_on_is_logged_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgeslm.serving"):
        Stages(TooLong("'a secret message' is too long"), said("ok", "b")).run()
    (record,) = caplog.records
    assert record.getMessage() == "stage stage0 of task topic can't answer: too_long"
