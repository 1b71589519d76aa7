"""Cascade: asks the stages of a task in order until one is confident.

A cascade is cheap if the first stage is fast and usually right. If no stage is confident, the last answer is
returned as ``abstained``. If a stage fails (out of memory, text too long), the next stage is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from edgeslm.engine.calls import Cost
from edgeslm.errors import PASSED_ON, RequestError
from edgeslm.messages import Request
from edgeslm.tasks import Outcome

log = logging.getLogger("edgeslm.serving")


@dataclass(frozen=True, slots=True)
class StageAnswer:
    """The answer of one stage; ``model`` is the model's label in results."""

    outcome: Outcome
    model: str | None


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    ask: Callable[[Request], Awaitable[StageAnswer]]


async def run_stages(stages: Sequence[Stage], request: Request) -> StageAnswer:
    """Returns the first answer that isn't ``abstained``, or else the last answer, with the total cost of all
    stages that answered.

    :raises RequestError: no stage could answer.
    """
    spent, last, problem = Cost(), None, None
    for stage in stages:
        try:
            answer = await stage.ask(request)
        except PASSED_ON as error:
            if len(stages) > 1:
                log.info("stage %s of task %s can't answer: %s", stage.name, request.task, error.code)
            problem = error
            continue
        spent += answer.outcome.cost
        last = replace(answer, outcome=replace(answer.outcome, cost=spent))
        if answer.outcome.status == "ok":
            break
    if last is None:
        raise problem or RequestError("the task has no stages")
    return last
