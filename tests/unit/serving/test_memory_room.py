"""Models that share the memory of a board that can't hold all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.calls import Adapters, Call, Embed, Hardware, Output
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.engine.worker.room import RESERVE_BYTES
from edgeslm.errors import ModelUnavailable, NoMemory
from edgeslm.serving.memory_room import PooledModel, load_bytes
from edgeslm.serving.model_pool import ModelPool
from tests.support.boards import make_bundle, put
from tests.support.fakes import FakeProcess
from tests.unit.serving.test_model_pool import MOMENT_S, until

CALL = Embed(("x",))
ANSWER = Output(text="here")
MB = 1_000_000
ONE_BYTES = 424 * MB
"""Estimated memory of a model with a file of 200 MB."""

Answer = Callable[[str, Call], Awaitable[Output]]


async def answers(name: str, call: Call) -> Output:
    return ANSWER


def held_by(event: asyncio.Event, asked: list[str]) -> Answer:
    """Answers once the event is set; notes which models were asked."""

    async def answer(name: str, call: Call) -> Output:
        asked.append(name)
        await event.wait()
        return ANSWER

    return answer


class Board:
    """A board with memory for ``room`` models, and models of equal size. ``peak`` is the largest number of
    models that were in memory at once."""

    def __init__(
        self,
        folder: Path,
        *names: str,
        room: float,
        kept: Collection[str] = (),
        answer: Answer = answers,
        swap_mb: int = 0,
        holds: float = 1.0,
        running: Board | None = None,
    ) -> None:
        self.root = folder
        self.processes: dict[str, FakeProcess] = {} if running is None else running.processes
        self.events: list[str] = []
        self.peak = 0
        self.room_bytes = int(room * ONE_BYTES) + RESERVE_BYTES
        self._answer, self._swap_mb = answer, swap_mb
        self._each = int(holds * ONE_BYTES)
        bundles = {}
        for name in names:
            place = folder / name
            bundles[name] = load_bundle(place if place.exists() else make_bundle(place, 200))
        self.tell_memory()
        self.models: ModelPool = ModelPool(
            bundles,
            {},
            keep_alive_s={name: None if name in kept else 3600.0 for name in names},
            make_process=self._make,
            root=folder,
            running=None if running is None else running.models,
        )

    def _make(self, bundle: Bundle, hardware: Hardware, adapters: Adapters) -> FakeProcess:
        name = bundle.path.name
        process = FakeProcess(bundle.path)
        start, stop = process.start, process.stop

        async def on_start() -> object:
            self.events.append(f"+{name}")
            await asyncio.sleep(0)  # it loads
            info = await start()
            self.peak = max(self.peak, self.tell_memory())
            return info

        async def on_stop() -> None:
            await asyncio.sleep(0)
            await stop()
            self.events.append(f"-{name}")
            self.tell_memory()

        async def on_call(
            call: Call, on_chunk: object = None, priority: int = 5, on_hang: object = None
        ) -> Output:
            if not process.alive:
                raise EngineCrashed("it is not running")
            return await self._answer(name, call)

        process.start, process.stop, process.call = on_start, on_stop, on_call  # type: ignore[method-assign, assignment]
        self.processes[name] = process
        return process

    def tell_memory(self) -> int:
        loaded = sum(process.alive for process in self.processes.values())
        free_kb = max(0, self.room_bytes - loaded * self._each) // 1024 + 1
        for pid in {pid for process in self.processes.values() for pid in process.pids}:
            put(self.root, f"proc/{pid}/status", f"VmRSS:\t{self._each // 1024} kB\n")
        text = f"MemTotal: 4000000 kB\nMemAvailable: {free_kb} kB\nSwapFree: {self._swap_mb * 1000} kB\n"
        put(self.root, "proc/meminfo", text)
        return loaded


def test_the_memory_of_a_model_is_estimated_from_its_bundle(tmp_path: Path) -> None:
    assert load_bytes(load_bundle(make_bundle(tmp_path / "a", 200))) == pytest.approx(ONE_BYTES, rel=0.01)


def test_a_model_that_holds_more_than_its_estimate_makes_room(tmp_path: Path) -> None:
    """With a long context it does: the other model was refused."""

    async def run() -> None:
        board = Board(tmp_path, "a", "b", room=1.4, holds=1.5)
        for name in ("a", "b"):
            assert await board.models.ask(name, CALL) == ANSWER
        assert board.events == ["+a", "-a", "+b"]
        await board.models.stop()

    asyncio.run(run())


def test_models_that_fit_are_loaded_together(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=2)
        await board.models.start()
        assert board.events == ["+a", "+b"]
        await board.models.stop()

    asyncio.run(scene())


def test_two_models_that_do_not_fit_together_change_places(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1)
        await board.models.start()
        assert board.events == ["+a"], "b is loaded when it is called"
        for name in ("b", "a", "a", "b"):
            assert await board.models.ask(name, CALL) == ANSWER
        assert board.events == ["+a", "-a", "+b", "-b", "+a", "-a", "+b"]
        assert board.peak == 1
        await board.models.stop()

    asyncio.run(scene())


def test_a_model_that_computes_finishes_before_it_is_unloaded(tmp_path: Path) -> None:
    is_done = asyncio.Event()
    asked: list[str] = []

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, answer=held_by(is_done, asked))
        first = asyncio.create_task(board.models.ask("a", CALL))
        await until(lambda: asked == ["a"])
        others = [asyncio.create_task(board.models.ask("b", CALL)) for _ in range(3)]
        await asyncio.sleep(MOMENT_S)
        assert (asked, board.events) == (["a"], ["+a"])
        is_done.set()
        assert await asyncio.gather(first, *others) == [ANSWER] * 4
        assert board.events == ["+a", "-a", "+b"]
        await board.models.stop()

    asyncio.run(scene())


def test_models_that_are_always_asked_take_turns(tmp_path: Path) -> None:
    """Without turns, the calls of the first would keep the other out for ever."""
    running = {"a": 0, "b": 0}

    async def work(name: str, call: Call) -> Output:
        running[name] += 1
        assert min(running.values()) == 0, "only one of them is in memory"
        await asyncio.sleep(0.001)
        running[name] -= 1
        return ANSWER

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, answer=work)
        await board.models.start()
        over = False

        async def keep_asking() -> None:
            while not over:
                await board.models.ask("a", CALL)

        load = [asyncio.create_task(keep_asking()) for _ in range(3)]
        await asyncio.sleep(MOMENT_S)
        async with asyncio.timeout(30):
            for _ in range(5):
                assert await board.models.ask("b", CALL) == ANSWER
        over = True
        await asyncio.gather(*load)
        assert board.peak == 1
        await board.models.stop()

    asyncio.run(scene())


def test_the_model_whose_last_call_is_longest_ago_goes_first(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", "c", room=2)
        for name in ("a", "b", "a", "c"):
            await board.models.ask(name, CALL)
        assert board.events == ["+a", "+b", "-b", "+c"]
        await board.models.stop()

    asyncio.run(scene())


def test_several_that_wait_for_memory_are_loaded_one_after_the_other(tmp_path: Path) -> None:
    async def scene() -> None:
        names = ["a", "b", "c", "d"]
        board = Board(tmp_path, *names, room=1)
        asks = [board.models.ask(name, CALL) for name in names * 5]
        assert await asyncio.gather(*asks) == [ANSWER] * 20
        assert board.peak == 1
        await board.models.stop()

    asyncio.run(scene())


def test_a_model_without_keep_alive_stays_and_another_is_refused(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, kept=["a"])
        await board.models.start()
        with pytest.raises(ModelUnavailable, match=r"b takes about 42\d MB of memory and \d+ MB are free; "):
            await board.models.ask("b", CALL)
        assert await board.models.ask("a", CALL) == ANSWER
        assert board.events == ["+a"]
        board.room_bytes *= 2  # another program ended
        board.tell_memory()
        assert await board.models.ask("b", CALL) == ANSWER
        await board.models.stop()

    asyncio.run(scene())


def test_a_model_that_never_fits_unloads_no_other(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", room=1)
        await board.models.start()
        large = load_bundle(make_bundle(tmp_path / "large", 900))
        pool = ModelPool(
            {"a": board.models.bundle("a"), "large": large},
            {},
            keep_alive_s={"a": 3600.0, "large": 3600.0},
            make_process=board._make,
            running=board.models,
        )
        with pytest.raises(ModelUnavailable, match="large takes about"):
            await pool.ask("large", CALL)
        assert board.events == ["+a"]
        await pool.stop()

    asyncio.run(scene())


def test_models_that_must_stay_and_do_not_fit_stop_the_start(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, kept=["a", "b"])
        with pytest.raises(ModelUnavailable, match="b takes about"):
            await board.models.start()
        await board.models.stop()

    asyncio.run(scene())


def test_swap_space_counts_when_nothing_is_left_to_unload(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, kept=["a", "b"], swap_mb=500)
        await board.models.start()
        assert board.events == ["+a", "+b"]
        await board.models.stop()

    asyncio.run(scene())


def test_a_call_that_needs_more_memory_unloads_idle_models(tmp_path: Path) -> None:
    calls = []

    async def answer(name: str, call: Call) -> Output:
        calls.append(name)
        if len(calls) == 1:
            raise NoMemory("the request takes 300 MB and 20 MB are free")
        return ANSWER

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=2, answer=answer)
        await board.models.start()
        assert await board.models.ask("a", CALL) == ANSWER
        assert (calls, board.events) == (["a", "a"], ["+a", "+b", "-b"])
        await board.models.stop()

    asyncio.run(scene())


def test_a_call_that_needs_more_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    async def answer(name: str, call: Call) -> Output:
        raise NoMemory("the request takes 300 MB and 20 MB are free")

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=2, kept=["b"], answer=answer)
        await board.models.start()
        with pytest.raises(NoMemory):
            await board.models.ask("a", CALL)
        assert board.events == ["+a", "+b"]
        await board.models.stop()

    asyncio.run(scene())


def test_the_memory_of_a_pool_that_takes_over_is_the_same(tmp_path: Path) -> None:
    async def scene() -> None:
        before = Board(tmp_path, "a", room=1)
        await before.models.start()
        after = Board(tmp_path, "a", "b", room=1, running=before)
        await after.models.start()
        assert await after.models.ask("b", CALL) == ANSWER
        assert not before.processes["a"].alive
        await before.models.stop(beside=[after.models])
        assert await after.models.ask("a", CALL) == ANSWER
        await after.models.stop()

    asyncio.run(scene())


def test_stopping_ends_those_that_wait_for_memory(tmp_path: Path) -> None:
    never = asyncio.Event()
    asked = []

    async def hang(name: str, call: Call) -> Output:
        asked.append(name)
        await never.wait()
        return ANSWER

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, answer=hang)
        first = asyncio.create_task(board.models.ask("a", CALL))
        await until(lambda: bool(asked))
        second = asyncio.create_task(board.models.ask("b", CALL))
        await asyncio.sleep(MOMENT_S)
        await board.models.stop()
        with pytest.raises(ModelUnavailable, match="stopping"):
            await second
        first.cancel()
        assert "+b" not in board.events

    asyncio.run(scene())


def test_a_cancelled_call_unloads_no_other_model(tmp_path: Path) -> None:
    """The other model was unloaded once it was idle, and the model of the cancelled call loaded."""
    is_done = asyncio.Event()
    asked: list[str] = []

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, answer=held_by(is_done, asked))
        first = asyncio.create_task(board.models.ask("a", CALL))
        await until(lambda: asked == ["a"])
        others = [asyncio.create_task(board.models.ask("b", CALL)) for _ in range(2)]
        await asyncio.sleep(MOMENT_S)
        others[0].cancel()
        await asyncio.sleep(MOMENT_S)
        assert not others[1].done(), "one call still waits"
        others[1].cancel()
        await asyncio.wait(others)
        is_done.set()
        assert await first == ANSWER
        assert await board.models.ask("a", CALL) == ANSWER
        assert board.events == ["+a"]
        assert await board.models.ask("b", CALL) == ANSWER
        await board.models.stop()

    asyncio.run(scene())


def test_a_call_that_follows_a_cancelled_one_is_not_cancelled(tmp_path: Path) -> None:
    """It waited for the start that was being cancelled."""
    is_done = asyncio.Event()

    async def slow(name: str, call: Call) -> Output:
        if name == "a":
            await is_done.wait()
        return ANSWER

    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=1, answer=slow)
        first = asyncio.create_task(board.models.ask("a", CALL))
        await until(lambda: board.events == ["+a"])
        cancelled = asyncio.create_task(board.models.ask("b", CALL))
        await asyncio.sleep(MOMENT_S)
        cancelled.cancel()
        next_one = asyncio.create_task(board.models.ask("b", CALL))
        await asyncio.sleep(MOMENT_S)
        is_done.set()
        assert [await first, await next_one] == [ANSWER] * 2
        await board.models.stop()

    asyncio.run(scene())


def test_no_model_is_unloaded_for_a_further_worker(tmp_path: Path) -> None:
    async def scene() -> None:
        board = Board(tmp_path, "a", "b", room=2)
        await board.models.start()
        room = board.models._room
        workers = PooledModel(
            board.models.bundle("a"), board.processes["a"], None, Hardware(workers=2), {}, may_unload=True
        )
        with pytest.raises(ModelUnavailable, match="MB are free"):
            await room.start(workers)
        assert board.events == ["+a", "+b"]
        await board.models.stop()

    asyncio.run(scene())
