"""Engine team: several workers of one model behind one handle; each call goes to the least loaded worker.

The threads of one worker synchronise after each operator of the model. Several workers with one thread each
don't synchronise, so they have a higher throughput under load, but a higher latency per message
(``benchmarks/LOG.md``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from edgeslm.bundle.manifest import Bundle
from edgeslm.engine.calls import (
    Adapters,
    Call,
    EngineInfo,
    Generate,
    Hardware,
    OnHang,
    OnText,
    Output,
    Power,
    Score,
)
from edgeslm.engine.host.process import EngineProcess
from edgeslm.messages import NORMAL_PRIORITY


class EngineTeam:
    """Several workers with the interface of one ``EngineProcess``; all ``members`` load the same bundle on
    the same hardware."""

    def __init__(self, members: Sequence[EngineProcess]) -> None:
        self._members = tuple(members)

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(pid for member in self._members for pid in member.pids)

    @property
    def alive(self) -> bool:
        """Whether at least one worker is alive."""
        return any(member.alive for member in self._members)

    @property
    def ready(self) -> bool:
        """Whether at least one worker can take calls."""
        return any(member.ready for member in self._members)

    @property
    def complete(self) -> bool:
        return all(member.complete for member in self._members)

    @property
    def info(self) -> EngineInfo | None:
        """Description of the loaded model; ``prepared`` is true only if all workers use prepacked weights.
        The description is None until all workers have loaded the model."""
        infos = [member.info for member in self._members]
        return None if None in infos else min(infos, key=lambda info: bool(info and info.prepared))

    @property
    def takes_prepared(self) -> bool:
        return all(member.takes_prepared for member in self._members)

    @property
    def losses(self) -> int:
        return sum(member.losses for member in self._members)

    async def start(self) -> EngineInfo:
        """Starts all workers that aren't alive, concurrently (``EngineProcess.start``). If a worker fails to
        start, the error is raised and the other workers keep running."""
        missing = [member for member in self._members if not member.alive]
        started = await asyncio.gather(*(member.start() for member in missing), return_exceptions=True)
        for outcome in started:
            if isinstance(outcome, BaseException):
                raise outcome
        info = self.info
        if info is None:
            raise RuntimeError("a started worker sent no description")
        return info

    async def call(
        self,
        call: Call,
        on_chunk: OnText | None = None,
        priority: int = NORMAL_PRIORITY,
        on_hang: OnHang | None = None,
    ) -> Output:
        """See ``EngineProcess.call``. A call with ``only_read`` goes to all workers, to warm the cache of
        each."""
        ready = [member for member in self._members if member.ready] or self._members
        if isinstance(call, Generate | Score) and call.only_read:
            outputs = await asyncio.gather(*(member.call(call, None, priority) for member in ready))
            return outputs[0]
        member = min(ready, key=lambda one: one.unanswered)
        return await member.call(call, on_chunk, priority, on_hang)

    async def stop(self) -> None:
        await asyncio.gather(*(member.stop() for member in self._members))


def make_engine(
    bundle: Bundle, hardware: Hardware, adapters: Adapters, *, power: Power, cache: Path, log_level: str
) -> EngineProcess | EngineTeam:
    """Creates one worker, or a team if ``hardware`` requires several workers. Parameters: see
    ``EngineProcess``."""

    def make() -> EngineProcess:
        return EngineProcess(
            bundle.path,
            digest=bundle.digest,
            threads=hardware.threads,
            device=hardware.device,
            power=power,
            adapters=adapters,
            cache=cache,
            log_level=log_level,
        )

    return make() if hardware.workers == 1 else EngineTeam([make() for _ in range(hardware.workers)])
