"""Escalation: asks another node or server, as the last stage, if no stage on this node is confident.

Waiting for it takes no slot of the scheduler. If it can't be reached or doesn't answer, the result of this
node is returned.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgeslm.config.schema import NODE_STAGE
from edgeslm.errors import PASSED_ON, Cancelled, EdgeslmError
from edgeslm.messages import Request, Result
from edgeslm.serving.remote import RemoteTarget, Servers
from edgeslm.serving.scheduler import WHILE_RUNNING, error_result
from edgeslm.tasks import Task

log = logging.getLogger("edgeslm.serving")


class OtherNodes(Protocol):
    """Sends requests to other nodes."""

    async def ask(
        self,
        node: str,
        task: str,
        input: str | Mapping[str, Any],
        timeout_s: float,
        options: Mapping[str, Any],
    ) -> Result:
        """:raises EdgeslmError: the other node doesn't answer in time."""
        ...

    async def close(self) -> None: ...


_PASSED_ON = frozenset(error.code for error in PASSED_ON)


@dataclass(frozen=True, slots=True)
class Target:
    """A task of another node; ``own`` is the task of this node that passes requests to the other node."""

    node: str
    task: str
    own: Task

    @classmethod
    def of(cls, last: str, own: Task) -> Target | None:
        """The target of a task whose last stage is ``last``; None if it isn't on another node."""
        if not last.startswith(NODE_STAGE):
            return None
        node, _, name = last.removeprefix(NODE_STAGE).partition("/")
        return cls(node, name, own)

    @property
    def stage(self) -> str:
        return f"{NODE_STAGE}{self.node}/{self.task}"


class Escalation:
    """Passes requests to other nodes and servers, if configured. Requests that wait for them can be
    cancelled."""

    def __init__(self, timeout_s: float, nodes: OtherNodes | None = None) -> None:
        self._timeout_s = timeout_s
        self._nodes = nodes
        self.servers = Servers()
        self._waiting: dict[asyncio.Future[Result | None], Request] = {}
        self._cancelled: set[asyncio.Future[Result | None]] = set()

    def is_wanted(self, result: Result) -> bool:
        """Whether another node or server should be asked after this result. If documents contradict each
        other, none is asked: a larger model would choose one of the documents, but a person has to resolve
        the conflict."""
        if (result.result or {}).get("conflict"):
            return False
        return result.status == "abstained" or (result.error is not None and result.error.code in _PASSED_ON)

    async def ask(self, target: Target | RemoteTarget, request: Request, found: Result) -> Result:
        """Returns the answer of the other node or server, or ``found``, the result of this node, if there is
        no usable answer."""
        now = time.monotonic()
        until = min((request.received_at or now) + self._timeout_s, request.expires_at or math.inf)
        left_s = until - now
        if left_s <= 0:
            return found
        asked = self._ask_server if isinstance(target, RemoteTarget) else self._ask_node
        asking = asyncio.ensure_future(asked(target, request, found, left_s))
        self._waiting[asking] = request
        try:
            answer = await asking
        except asyncio.CancelledError:
            if asking not in self._cancelled:  # the node is stopping; the broker redelivers the request
                asking.cancel()
                raise
            return error_result(request, Cancelled(WHILE_RUNNING))
        except EdgeslmError as error:
            log.warning("task %s: %s doesn't answer: %s", request.task, target.stage, error)
            return found
        except Exception as error:  # whatever the other sent, this node's result must not be lost
            log.error("task %s: asking %s failed: %s", request.task, target.stage, type(error).__name__)
            log.debug("task %s: asking %s failed", request.task, target.stage, exc_info=error)
            return found
        finally:
            del self._waiting[asking]
            self._cancelled.discard(asking)
        return found if answer is None else _merge(target.stage, request, found, answer, now)

    async def _ask_node(self, target: Any, request: Request, found: Result, left_s: float) -> Result | None:
        if self._nodes is None or not target.own.may_refer(request):
            return None
        here = found.result or {}
        options = target.own.refer(request, here)
        answer = await self._nodes.ask(target.node, target.task, request.input, left_s, options)
        self.servers.on_usage(request, answer.usage)
        if answer.status == "error":
            code = answer.error.code if answer.error else ""
            log.warning("task %s: %s answers with an error: %s", request.task, target.stage, code)
            return None
        brought = target.own.bring_back(request, here, answer.result or {})
        message = request.input if isinstance(request.input, str) else ""
        if brought is None or not target.own.is_answer(brought, message):
            log.warning("task %s: the result of %s doesn't fit this task", request.task, target.stage)
            return None
        return replace(answer, result=brought)

    async def _ask_server(self, target: Any, request: Request, found: Result, left_s: float) -> Result | None:
        return await self.servers.ask(target, request, found.result or {}, left_s)

    async def stop(self) -> None:
        if self._nodes is not None:
            await self._nodes.close()
        await self.servers.close()

    def cancel(self, matches: Callable[[Request], bool]) -> int:
        """Cancels the matching requests that wait for another node.

        :return: the number of these requests.
        """
        chosen = [asking for asking, request in self._waiting.items() if matches(request)]
        for asking in chosen:
            self._cancelled.add(asking)
            asking.cancel()
        return len(chosen)


def _merge(stage: str, request: Request, found: Result, answer: Result, asked_at: float) -> Result:
    """Makes the other's answer the result of this request, with the times and tokens of both."""
    times = {key: found.timings_ms.get(key, 0.0) for key in ("queue", "prefill", "decode")}
    for key in times:
        times[key] += answer.timings_ms.get(key, 0.0)
    counted = (found.usage, answer.usage)
    usage = {key: sum(of.get(key, 0) for of in counted) for key in {**found.usage, **answer.usage}}
    return replace(
        answer,
        id=request.id,
        task=request.task,
        result={**(answer.result or {}), "stage": stage},
        timings_ms={**times, "total": (time.monotonic() - (request.received_at or asked_at)) * 1000},
        usage=usage,
    )
