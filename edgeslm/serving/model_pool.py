"""Model pool: the bundles of this node, each with one or more engine processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from edgeslm.bundle.manifest import Bundle, short_digest
from edgeslm.engine.calls import NO_ADAPTERS, Adapters, Call, Hardware, OnHang, OnText, Output
from edgeslm.engine.host.process import EngineCrashed, EngineProcess
from edgeslm.engine.host.team import EngineTeam
from edgeslm.errors import BundleError, ModelUnavailable, NoMemory, Poisoned
from edgeslm.messages import NORMAL_PRIORITY, Attempt
from edgeslm.serving.memory_room import MemoryRoom, PooledModel

log = logging.getLogger("edgeslm.serving")


class MakeProcess(Protocol):
    """Creates the engine of a bundle, with its adapters."""

    def __call__(
        self, bundle: Bundle, hardware: Hardware, adapters: Adapters, /
    ) -> EngineProcess | EngineTeam: ...


ATTEMPTS = 2
"""Number of attempts of a request whose engine crashes; after the last attempt, the request counts as the
cause of the crash."""


AGAIN_S = 10.0
"""Seconds between two attempts to start a missing worker of a team."""


class Pieces:
    """Passes on the pieces of a streamed text. When a call runs again, its text begins again: what was passed
    on already isn't repeated. If the new text differs, nothing more is passed on."""

    def __init__(self, pass_on: OnText) -> None:
        self._pass_on = pass_on
        self._sent = ""
        self._text = ""

    def __call__(self, piece: str) -> None:
        self._text += piece
        if len(self._text) > len(self._sent) and self._text.startswith(self._sent):
            new = self._text[len(self._sent) :]
            self._sent = self._text
            self._pass_on(new)

    def begin_again(self) -> Pieces:
        self._text = ""
        return self


class ModelPool:
    """Named models that are loaded together; a model whose process exits is restarted for the next call.

    :param bundles: model name -> bundle; an engine refuses a bundle that was changed.
    :param hardware: model name -> hardware; by default, the CPU with the number of threads that is fastest.
    :param keep_alive_s: model name -> seconds without a call after which the model is unloaded.
    :param adapters: model name -> adapter bundles that calls may name, with their digests.
    :param make_process: function that creates an engine from bundle, hardware and adapters.
    :param running: the current models; identical models are shared.
    :param root: root folder of the system files that report the free memory.
    """

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        hardware: Mapping[str, Hardware],
        *,
        keep_alive_s: Mapping[str, float | None] = MappingProxyType({}),
        adapters: Mapping[str, Adapters] = MappingProxyType({}),
        make_process: MakeProcess,
        running: ModelPool | None = None,
        root: Path = Path("/"),
    ) -> None:
        self._room: MemoryRoom = MemoryRoom(root) if running is None else running._room  # noqa: SLF001  another of the same class
        self._models: dict[str, PooledModel] = {}
        self._keep_alive_s = keep_alive_s
        for name, bundle in bundles.items():
            on, taken = hardware.get(name, Hardware()), adapters.get(name, NO_ADAPTERS)
            before = None if running is None else running._models.get(name)  # noqa: SLF001  another of the same class
            if before is not None and before.is_of(bundle, on, taken):
                self._models[name] = before
                continue
            process = make_process(bundle, on, taken)
            graph = bundle.manifest.graphs.for_calls(adapters=bool(taken))
            may_unload = keep_alive_s.get(name) is not None
            self._models[name] = PooledModel(bundle, process, graph, on, taken, may_unload)
            self._room.add(self._models[name])
        self._stopped = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def bundle(self, name: str) -> Bundle:
        return self._models[name].bundle

    def label(self, name: str) -> str:
        """Label of a model in results, such as ``small@sha256:1f3a...``."""
        return f"{name}@{short_digest(self.bundle(name).digest)}"

    def graph(self, name: str) -> str | None:
        """Name of the ONNX file that a decoder's engine loads; None if the model is an encoder. If the model
        has adapters, the file is the graph with inputs for LoRA matrices."""
        return self._models[name].graph

    def is_loaded(self, name: str) -> bool:
        return self._models[name].process.alive

    def is_prepared(self, name: str) -> bool:
        """Whether a model's engine uses prepacked weights, or used them when it was last loaded."""
        info = self._models[name].process.info
        return info is not None and info.prepared

    def can_be_prepared(self, name: str) -> bool:
        """Whether a model's engine supports prepacked weights but was loaded without them."""
        model = self._models[name]
        has_none = model.process.info is not None and not model.process.info.prepared
        return has_none and model.graph is not None and model.process.takes_prepared

    def find(self, digest: str) -> str | None:
        """Name of the model whose bundle has this digest; None if there is no such model."""
        return next((name for name, model in self._models.items() if model.bundle.digest == digest), None)

    @property
    def pids(self) -> dict[str, int]:
        """Maps the name of each model to a process id; further workers of a model ``small`` are named
        ``small#2`` and so on."""
        return {
            name if number == 1 else f"{name}#{number}": pid
            for name, model in self._models.items()
            for number, pid in enumerate(model.process.pids, 1)
        }

    @property
    def losses(self) -> dict[str, int]:
        """Number of crashes of each model's engine, which is restarted for the next call."""
        return {name: model.process.losses for name, model in self._models.items()}

    async def start(self) -> None:
        """Loads all models, concurrently if there is memory for all. A model with ``keep_alive_s`` for which
        there is no memory is loaded when it is first called. An engine that exits while loading is started
        once more.

        :raises BundleError: an engine refuses its bundle.
        :raises EngineCrashed: an engine exited twice while loading.
        :raises ModelUnavailable: there is too little memory for the models without ``keep_alive_s``.
        """
        for name, model in self._models.items():
            model.may_unload = self._keep_alive_s.get(name) is not None
        models = list(self._models.values())
        if self._room.holds(models):
            await asyncio.gather(*(self._load(model) for model in models))
        else:
            for model in sorted(models, key=lambda one: one.may_unload):
                if not model.may_unload or self._room.holds([model]):
                    await self._load(model)
                else:
                    log.warning("%s is loaded when it is called: memory is short", model.bundle.path)
        for name in self._models:
            self._unload_later(name)

    async def _load(self, model: PooledModel) -> None:
        try:
            await self._ensure(model)
        except EngineCrashed as error:  # possibly killed for lack of memory
            log.warning("%s; it is started once more", error)
            await self._room.unload_idle(model)
            await self._ensure(model)

    async def ask(
        self,
        name: str,
        call: Call,
        on_chunk: OnText | None = None,
        attempt: Attempt | None = None,
        priority: int = NORMAL_PRIORITY,
    ) -> Output:
        """Runs one engine call; waits while the model is loading, and retries the call once after a crash.
        A retry passes on only text that ``on_chunk`` hasn't had.

        :raises Poisoned: the engine crashed on each attempt.
        :raises ModelUnavailable: the engine can't be restarted, or the node is stopping.
        :raises RequestError: the error that the engine reports.
        """
        model = self._models[name]
        pieces = Pieces(on_chunk) if on_chunk is not None else None
        with self._in_use(name):
            for number in range(1, ATTEMPTS + 1):
                if attempt is not None and self._must_wait(model):
                    attempt.wait()
                async with self._turn(model, number):
                    if attempt is not None:
                        attempt.compute()
                    try:
                        on_hang = None if attempt is None else attempt.hang
                        return await self._call(model, call, pieces, priority, on_hang)
                    except EngineCrashed:
                        log.warning("the engine of model %s crashed on a request (attempt %d)", name, number)
                        if attempt is not None and number < ATTEMPTS:
                            attempt.crash()
        raise Poisoned(f"the engine crashed {ATTEMPTS} times on this request; it is not tried again")

    def _must_wait(self, model: PooledModel) -> bool:
        return not model.process.ready or model.retry_lock.locked() or self._room.is_claimed(model)

    async def _call(
        self,
        model: PooledModel,
        call: Call,
        pieces: Pieces | None,
        priority: int,
        on_hang: OnHang | None,
    ) -> Output:
        """Runs a call in the engine. If the memory that is free isn't enough for the call, idle models are
        unloaded first."""
        try:
            return await model.process.call(call, pieces and pieces.begin_again(), priority, on_hang)
        except NoMemory:
            if not await self._room.unload_idle(model):
                raise
        return await model.process.call(call, pieces and pieces.begin_again(), priority, on_hang)

    @asynccontextmanager
    async def _turn(self, model: PooledModel, attempt: int) -> AsyncIterator[None]:
        """Waits until a call may use the engine. A retried call has the engine exclusively, since only one of
        the calls that ran during a crash is its cause, and the other calls must not be blamed."""
        try:
            if attempt > 1:
                async with model.retry_lock:
                    await self._load_for_call(model)
                    with self._computing(model):
                        yield
                return
            while True:
                await self._load_for_call(model)
                if not model.retry_lock.locked():
                    break
                async with model.retry_lock:
                    pass
        except BundleError as error:  # changed or damaged since the start
            raise ModelUnavailable(str(error)) from None
        with self._computing(model):
            yield

    async def _load_for_call(self, model: PooledModel) -> None:
        """Loads a model. While another model waits for this one's memory, and after this one was unloaded for
        another, the call waits until it can be loaded again."""
        while True:
            while self._room.is_claimed(model):
                await self._room.change()
            model.loading += 1
            try:
                await self._load(model)
            finally:
                model.loading -= 1
                self._room.notify()
            if not model.is_unloaded:
                return

    @contextmanager
    def _computing(self, model: PooledModel) -> Iterator[None]:
        try:
            with model.computing():
                yield
        finally:
            self._room.notify()

    async def renew(self, name: str) -> bool:
        """Restarts an idle engine, so that it uses new prepacked weights; new calls wait.

        :return: false if calls run or wait, so that the engine can't be restarted. An unloaded model stays
            unloaded.
        :raises EngineCrashed: the engine exited while loading; the next call starts it again.
        :raises BundleError: the engine refuses its bundle.
        """
        model = self._models[name]
        if model.calls:
            return False
        if model.process.alive:
            model.unload()
            await self._load(model)
            self._unload_later(name)
        return True

    async def stop(self, beside: Collection[ModelPool] = ()) -> None:
        """Stops all engines except those shared with the pools in ``beside``; running and new calls fail."""
        self._stopped = True
        shared = [model for other in beside for model in other._models.values()]  # noqa: SLF001  another of the same class
        models = [model for model in self._models.values() if model not in shared]
        starting = [model.starting for model in models if model.starting is not None]
        for start in starting:
            start.cancel()
        for model in models:
            model.cancel_timer()
        unloading = [model.unloading for model in models if model.unloading is not None]
        await asyncio.gather(*starting, *unloading, return_exceptions=True)
        await asyncio.gather(*(model.process.stop() for model in models))
        self._room.remove(models)

    async def _ensure(self, model: PooledModel) -> None:
        """Starts the model's engine unless it is running; concurrent callers share one start."""
        stays = model.unloading is None or model.unloading.done()
        is_settled = stays and (model.starting is None or model.starting.done())
        if model.process.complete and is_settled:
            return
        if self._stopped:
            raise ModelUnavailable("the node is stopping")
        if model.process.ready and stays:  # one worker of a team is enough
            self._complete(model)
            return
        if model.starting is None or model.starting.done():
            model.starting = asyncio.create_task(self._start(model))
        model.waiting += 1
        try:
            await asyncio.shield(model.starting)
        except asyncio.CancelledError:
            if self._stopped:
                raise ModelUnavailable("the node is stopping") from None
            if model.waiting == 1 and not self._room.is_loading(model) and model.starting is not None:
                model.starting.cancel()  # or another model would be unloaded for a call that is over
                model.starting = None  # a new call starts it again
            raise
        finally:
            model.waiting -= 1

    def _complete(self, model: PooledModel) -> None:
        """Starts the missing workers of a team in the background."""
        loop = asyncio.get_running_loop()
        if (model.starting is not None and not model.starting.done()) or loop.time() < model.retry_at:
            return

        def note(start: asyncio.Task[object]) -> None:
            if not start.cancelled() and (error := start.exception()) is not None:
                model.retry_at = loop.time() + AGAIN_S
                log.warning("a worker of %s is missing: %s", model.bundle.path.name, error)

        model.starting = asyncio.create_task(self._start(model))
        model.starting.add_done_callback(note)

    async def _start(self, model: PooledModel) -> None:
        if model.unloading is not None:  # wait until its memory is free
            await asyncio.shield(model.unloading)
        await self._room.start(model)

    @contextmanager
    def _in_use(self, name: str) -> Iterator[None]:
        model = self._models[name]
        model.calls += 1
        model.cancel_timer()
        try:
            yield
        finally:
            model.calls -= 1
            self._unload_later(name)

    def _unload_later(self, name: str) -> None:
        model, keep_alive_s = self._models[name], self._keep_alive_s.get(name)
        if not model.calls and not self._stopped:
            model.cancel_timer()
            if keep_alive_s is not None:
                loop = asyncio.get_running_loop()
                model.timer = loop.call_later(keep_alive_s, self._unload, model)

    def _unload(self, model: PooledModel) -> None:
        model.timer = None
        if model.process.alive:
            log.info("%s is unloaded until it is asked again", model.bundle.path)
            model.unload().add_done_callback(lambda _: self._room.notify())
