"""Closed-loop client: a number of requests in flight, each timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from edgeslm.client import Client
from edgeslm.errors import EdgeslmError
from edgeslm.messages import Result

TIMEOUT_S: Final = 600.0
START_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the task ``task``. ``deadline_s`` is how long its sender waits."""

    task: str
    input: str
    options: Mapping[str, Any] = field(default_factory=dict)
    deadline_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Answered:
    """``seconds`` from publish to result; ``first_s`` to the first piece of a streamed text."""

    ask: Ask
    result: Result
    seconds: float
    first_s: float | None = None


async def answer_all(
    client: Client, asks: Sequence[Ask], in_flight: int, *, stream: bool = False
) -> tuple[list[Answered], float]:
    """All of them, so many at a time. :return: the answers in the order of the requests, and the seconds."""
    answers: dict[int, Answered] = {}
    left = iter(enumerate(asks))

    async def work() -> None:
        for place, ask in left:
            answers[place] = await _answer(client, ask, stream)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    return [answers[place] for place in range(len(asks))], time.perf_counter() - started


async def _answer(client: Client, ask: Ask, stream: bool) -> Answered:
    pieces: list[float] = []
    started = time.perf_counter()
    on_chunk = (lambda _: pieces.append(time.perf_counter() - started)) if stream else None
    result = await client.request_async(
        ask.task, ask.input, ask.options, timeout=TIMEOUT_S, on_chunk=on_chunk
    )
    return Answered(ask, result, time.perf_counter() - started, pieces[0] if pieces else None)


async def until_online(client: Client) -> None:
    """:raises EdgeslmError: the node isn't there in time."""
    give_up_at = time.monotonic() + START_S
    while client.node_state != "online":
        if time.monotonic() > give_up_at:
            raise EdgeslmError(f"the node was not online within {START_S:g} s")
        await asyncio.sleep(0.05)
