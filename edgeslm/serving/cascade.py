"""Cascades: the stages of a task, who answers and who passes on.

Each stage is asked until one is sure, which is cheap where the first is fast and right about most. What none
is sure of gets the last answer, as ``abstained``. A stage that can't answer (no memory, a text too long for
it) passes on too. Knows no engine and no bus: what asking a stage means is handed in.
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
    """``model`` is how results name what computed it."""

    outcome: Outcome
    model: str | None


@dataclass(frozen=True, slots=True)
class Stage:
    name: str
    ask: Callable[[Request], Awaitable[StageAnswer]]


async def run_stages(stages: Sequence[Stage], request: Request) -> StageAnswer:
    """The first answer that isn't ``abstained``, else the last one; its cost is that of all that were asked.

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
