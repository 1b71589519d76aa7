"""Child processes of edgeslm-export: those that a test chooses are replaced, the others are real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from edgeslm_export.jobs.subprocess_job import OnProgress


class Step(Protocol):
    """The work of a child: takes its task and returns its result; None starts the real child."""

    def __call__(self, task: dict[str, Any], on_progress: OnProgress | None, /) -> dict[str, Any] | None: ...


class FakeChildren:
    """Replaces ``run_child``: a module in ``steps`` is run by its step, in the test's process. The step "*"
    is for all other modules.

    Tasks and results are JSON, as between processes.
    """

    def __init__(self, start: Callable[..., dict[str, Any]]) -> None:
        self._start = start
        self.steps: dict[str, Step] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """Module and task of each replaced child."""

    def __call__(
        self,
        command: Sequence[str],
        task: Mapping[str, Any],
        what: str,
        *,
        on_progress: OnProgress | None = None,
        debug: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        module = command[-1].removeprefix("edgeslm_export.")
        if (step := self.steps.get(module, self.steps.get("*"))) is not None:
            plain = json.loads(json.dumps(task))
            if (found := step(plain, on_progress)) is not None:
                self.asked.append((module, plain))
                answer: dict[str, Any] = json.loads(json.dumps(found))
                return answer
        how = {"on_progress": on_progress, "debug": debug, "environment": environment}
        return self._start(command, task, what, **how)
