"""Memory room: which models are in memory at a time, on a board that can't hold all of them.

Before an engine starts, idle models that may be unloaded (``keep_alive_s``) give up their memory, the least
recently used first. A model that is computing finishes its calls first; its further calls wait, so that two
busy models take turns.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from edgeslm.bundle.manifest import Bundle, memory_need
from edgeslm.bundle.performance import bundle_footprint
from edgeslm.bundle.size_estimate import memory_bytes
from edgeslm.engine.calls import Adapters, Hardware
from edgeslm.engine.host.process import EngineProcess
from edgeslm.engine.host.team import EngineTeam
from edgeslm.engine.worker.room import RESERVE_BYTES
from edgeslm.errors import ModelUnavailable
from edgeslm.hardware.board import read_memory, resident_bytes

log = logging.getLogger("edgeslm.serving")

LOAD_TOKENS: Final = 512
"""Tokens of KV cache that must fit beside a model's weights for the model to be loaded. Longer requests check
the memory themselves (``engine.worker.room``)."""


def load_bytes(bundle: Bundle) -> int:
    """Estimated memory of one engine process with a loaded model and a short request."""
    tokens = min(LOAD_TOKENS, bundle.manifest.context_length)
    foot = bundle_footprint(bundle)
    return memory_need(bundle.manifest, tokens) if foot is None else memory_bytes(foot, tokens)


@dataclass(eq=False)
class PooledModel:
    """A model and its engine. ``calls`` is the number of running and waiting calls; of these, ``loading``
    wait until the model is loaded, and ``running`` are in the engine. A missing worker is not started again
    before ``retry_at``, a time of the event loop's clock."""

    bundle: Bundle
    process: EngineProcess | EngineTeam
    graph: str | None
    hardware: Hardware
    adapters: Adapters
    may_unload: bool = False
    """Whether the model is unloaded when another one needs its memory."""
    calls: int = 0
    loading: int = 0
    waiting: int = 0
    """Number of callers that wait for the engine to start."""
    running: int = 0
    used_at: float = 0.0
    is_unloaded: bool = False
    """Whether the engine was stopped to free its memory, and not started since."""
    starting: asyncio.Task[object] | None = None
    unloading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    retry_at: float = 0.0
    retry_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Lock that a retried call holds, so that no other call runs: if the engine crashes again, the retried
    call is the cause."""

    def is_of(self, bundle: Bundle, hardware: Hardware, adapters: Adapters) -> bool:
        """Whether this model has the given bundle, hardware and adapters."""
        own = self.bundle.path, self.bundle.digest, self.hardware, dict(self.adapters)
        return own == (bundle.path, bundle.digest, hardware, dict(adapters))

    @cached_property
    def worker_bytes(self) -> int:
        """Estimated memory of one worker; 0 on a GPU, whose memory the kernel doesn't count."""
        return 0 if self.hardware.device == "cuda" else load_bytes(self.bundle)

    @property
    def missing_bytes(self) -> int:
        """Estimated memory of the workers that have to be started."""
        return self.worker_bytes * max(0, self.hardware.workers - len(self.process.pids))

    @property
    def is_settled(self) -> bool:
        """Whether the engine is neither being started nor stopped."""
        return all(task is None or task.done() for task in (self.starting, self.unloading))

    @property
    def is_idle(self) -> bool:
        """Whether the engine may be stopped. A model that was loaded for a call isn't idle before this call
        was computed, or two models would unload each other for ever."""
        return self.is_settled and not self.running and not self.loading

    @contextmanager
    def computing(self) -> Iterator[None]:
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self.used_at = time.monotonic()

    def unload(self) -> asyncio.Task[None]:
        """Stops the engine; the next call starts it again."""
        self.cancel_timer()
        self.is_unloaded = True
        self.unloading = asyncio.create_task(self.process.stop())
        return self.unloading

    def cancel_timer(self) -> None:
        """Cancels a scheduled unload."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class MemoryRoom:
    """The memory that the models of a node share.

    :param root: root folder of the system files that report the free memory.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._models: list[PooledModel] = []
        self._loading: dict[PooledModel, int] = {}
        """Models whose engines are starting, with the bytes that are set aside for them."""
        self._queue: deque[PooledModel] = deque()
        """Models that wait for memory, in order of arrival."""
        self._changed = asyncio.Event()

    def add(self, model: PooledModel) -> None:
        self._models.append(model)

    def remove(self, models: Sequence[PooledModel]) -> None:
        """Removes models that are stopped for good."""
        self._models = [model for model in self._models if model not in models]
        self.notify()

    def notify(self) -> None:
        """Wakes everyone who waits for a change: a call or a start ended, or a model was unloaded."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Waits for the next change."""
        await self._changed.wait()

    def is_claimed(self, model: PooledModel) -> bool:
        """Whether another model waits for this one's memory, so that new calls of this model have to wait."""
        return bool(self._queue) and model.may_unload and self._queue[0] is not model

    def holds(self, models: Sequence[PooledModel]) -> bool:
        """Whether there is memory for all these models without unloading another one."""
        return sum(model.missing_bytes for model in models) <= self._free()

    def is_loading(self, model: PooledModel) -> bool:
        """Whether a model's engine is starting."""
        return model in self._loading

    @contextmanager
    def _waiting(self, model: PooledModel) -> Iterator[None]:
        self._queue.append(model)
        try:
            yield
        finally:
            self._queue.remove(model)
            self.notify()

    async def start(self, model: PooledModel) -> None:
        """Starts a model's engine once there is memory for it. No other model is unloaded for further workers
        of an engine that is ready.

        :raises ModelUnavailable: the memory isn't enough even without the models that may be unloaded.
        """
        needed = model.missing_bytes
        if needed and model.process.ready and needed > self._free():
            raise ModelUnavailable(self._refusal(model, needed))
        if needed and not model.process.ready and (self._queue or needed > self._free()):
            with self._waiting(model):
                await self._make(model, needed)
        self._loading[model] = needed
        try:
            await model.process.start()
            model.is_unloaded = False
        finally:
            del self._loading[model]
            self.notify()

    async def _make(self, model: PooledModel, needed: int) -> None:
        """Waits until ``needed`` bytes are free, and unloads idle models for them."""
        while self._queue[0] is not model or needed > self._free():
            others = [one for one in self._models if one is not model and one.may_unload]
            if self._queue[0] is not model:
                await self.change()
            elif needed > self._free() + self._held(others) + self._swap():
                raise ModelUnavailable(self._refusal(model, needed))
            elif (idle := _least_recently_used(others)) is not None:
                log.info("%s is unloaded to make room for %s", idle.bundle.path, model.bundle.path)
                await asyncio.shield(idle.unload())
                self.notify()
            elif self._loading or any(self._will_change(one) for one in others):
                await self.change()
            elif needed > self._free() + self._swap():
                raise ModelUnavailable(self._refusal(model, needed))
            else:
                return  # the rest is swap

    def _refusal(self, model: PooledModel, needed: int) -> str:
        free = max(0, self._free())
        return (
            f"model {model.bundle.path.name} takes about {needed / 1e6:.0f} MB of memory and "
            f"{free / 1e6:.0f} MB are free; take a smaller model, or set keep_alive_s of the other models, "
            "which are then unloaded for it"
        )

    def _will_change(self, model: PooledModel) -> bool:
        """Whether a model is computing or about to, or is being started or stopped. A model that waits for
        memory itself doesn't change before others do."""
        return bool(model.running) or (model not in self._queue and not model.is_idle)

    async def unload_idle(self, model: PooledModel) -> bool:
        """Unloads all idle models except ``model``. :return: whether there was one."""
        others = [one for one in self._models if one is not model and one.may_unload]
        found = False
        while (idle := _least_recently_used(others)) is not None:
            found = True
            log.info("%s is unloaded, since memory is short", idle.bundle.path)
            await asyncio.shield(idle.unload())
            self.notify()
        return found

    def _free(self) -> float:
        """Free bytes, without those that starting engines will take."""
        memory = read_memory(self._root)
        if memory is None:
            return math.inf
        return memory.available - RESERVE_BYTES - sum(self._loading.values())

    def _swap(self) -> int:
        memory = read_memory(self._root)
        return 0 if memory is None else memory.swap

    def _held(self, models: Sequence[PooledModel]) -> int:
        """Bytes that are free once these models are unloaded: what each worker holds, or at least the
        estimate, which counts a short context."""
        pids = [(model, pid) for model in models for pid in model.process.pids]
        loaded = sum(max(model.worker_bytes, resident_bytes(self._root, pid)) for model, pid in pids)
        return loaded + sum(self._loading.values())


def _least_recently_used(models: Sequence[PooledModel]) -> PooledModel | None:
    """The model, of those that are loaded and idle, whose last call is the longest ago."""
    idle = [one for one in models if one.process.alive and one.is_idle]
    return min(idle, key=lambda one: one.used_at, default=None)
