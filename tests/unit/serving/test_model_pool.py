from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.calls import Adapters, Call, Embed, Hardware, Output
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.errors import BundleError, ModelUnavailable, Poisoned, TooLong
from edgeslm.serving.model_pool import ModelPool, Pieces
from tests.support.fakes import FakeAttempt, FakeProcess
from tests.support.nodes import write_bundle

CALL = Embed(("x",))
ANSWER = Output(text="here")


class Node:
    """Models on fake processes, which are kept by the name of their model."""

    def __init__(self, folder: Path, *names: str, keep_alive_s: float | None = None, **fakes: Any) -> None:
        self.processes: dict[str, FakeProcess] = {}

        def make(bundle: Bundle, hardware: Hardware, adapters: Adapters) -> FakeProcess:
            self.made_of, self.hardware, self.adapters = bundle, hardware, adapters
            process = self.processes[bundle.path.name] = FakeProcess(bundle.path, **fakes)
            return process

        bundles = {name: load_bundle(write_bundle(folder / name)) for name in names or ("small",)}
        self.models = ModelPool(
            bundles,
            {"small": Hardware(3, "cuda")},
            keep_alive_s={"small": keep_alive_s},
            adapters={"small": {folder / "adapter": "sha256:a"}},
            make_process=make,
        )

    @property
    def small(self) -> FakeProcess:
        return self.processes["small"]


def raises(*errors: Exception | None) -> Callable[[Call], Output]:
    """An answer to each call: an error is raised, None answers."""
    left = list(errors)

    def answer(call: Call) -> Output:
        error = left.pop(0)
        if error is not None:
            raise error
        return ANSWER

    return answer


def test_an_attempt_is_told_when_it_is_computed_and_that_it_hung(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, on_call=raises(None, None, EngineCrashed("gone"), None))
        attempt = FakeAttempt()
        await node.models.ask("small", CALL, attempt=attempt)
        assert attempt.told == ["wait", "compute"], "its model was loaded first"
        await node.models.ask("small", CALL, attempt=attempt)
        assert attempt.told[2:] == ["compute"]
        await node.models.ask("small", CALL, attempt=attempt)
        assert attempt.told[3:] == ["compute", "crash", "wait", "compute"]
        assert node.small.on_hang is not None
        node.small.on_hang()
        assert attempt.told[-1] == "hang"
        await node.models.stop()

    asyncio.run(scene())


def test_names_and_labels(tmp_path: Path) -> None:
    node = Node(tmp_path)
    bundle = node.models.bundle("small")
    assert node.models.find(bundle.digest) == "small"
    assert node.models.find("sha256:0") is None
    assert node.models.label("small") == f"small@{bundle.digest[:19]}"
    assert node.hardware == Hardware(3, "cuda")
    assert node.made_of == bundle, "its digest goes to the worker with it"
    assert node.adapters == {tmp_path / "adapter": "sha256:a"}
    assert node.models.pids == {}


def test_starts_all_and_stops_all(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, "small", "large", on_call=raises(None))
        assert node.models.pids == {}
        await node.models.start()
        assert node.models.pids == {"small": 4711, "large": 4711}
        assert await node.models.ask("large", CALL) == ANSWER
        assert node.processes["large"].calls == [CALL]
        await node.models.stop()
        assert node.models.pids == {}
        assert [process.stops for process in node.processes.values()] == [1, 1]

    asyncio.run(scene())


def test_a_crash_is_tried_once_more_on_a_fresh_engine(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, on_call=raises(EngineCrashed("gone"), None))
        assert await node.models.ask("small", CALL) == ANSWER
        assert node.small.starts == 2

    asyncio.run(scene())


def test_a_second_crash_is_poison_and_the_next_request_is_served(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, on_call=raises(EngineCrashed("gone"), EngineCrashed("gone"), None))
        with pytest.raises(Poisoned):
            await node.models.ask("small", CALL)
        assert node.small.starts == 2, "not tried a third time"
        assert await node.models.ask("small", CALL) == ANSWER

    asyncio.run(scene())


def test_what_the_engine_refuses_is_not_tried_again(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, on_call=raises(TooLong("too long")))
        with pytest.raises(TooLong):
            await node.models.ask("small", CALL)
        assert node.small.starts == 1

    asyncio.run(scene())


def test_callers_share_one_start(tmp_path: Path) -> None:
    async def scene() -> None:
        loaded = asyncio.Event()
        node = Node(tmp_path, on_start=lambda number: loaded.wait(), on_call=lambda call: ANSWER)
        asks = [asyncio.create_task(node.models.ask("small", CALL)) for _ in range(3)]
        asks.append(asyncio.create_task(node.models.ask("small", CALL)))
        await asyncio.sleep(0)
        asks[0].cancel()  # one of them goes away: the start goes on for the others
        await asyncio.sleep(0)
        loaded.set()
        assert await asyncio.gather(*asks[1:]) == [ANSWER] * 3
        assert node.small.starts == 1

    asyncio.run(scene())


def test_an_engine_that_ends_while_it_loads_is_started_once_more(tmp_path: Path) -> None:
    def start(number: int) -> None:
        if number == 1:
            raise EngineCrashed("it ended while loading")

    async def scene() -> None:
        node = Node(tmp_path, on_start=start)
        await node.models.start()
        assert (node.small.starts, node.small.alive) == (2, True)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("error", "starts"),
    [(EngineCrashed("it ended while loading"), (2, 3)), (BundleError("m: changed"), (2,))],
)
def test_a_model_that_cant_start_again_is_unavailable_until_it_can(
    tmp_path: Path, error: Exception, starts: tuple[int, ...]
) -> None:
    def start(number: int) -> None:
        if number in starts:
            raise error

    async def scene() -> None:
        node = Node(tmp_path, on_start=start, on_call=raises(EngineCrashed("gone"), None))
        with pytest.raises(ModelUnavailable, match=str(error)):
            await node.models.ask("small", CALL)
        assert await node.models.ask("small", CALL) == ANSWER

    asyncio.run(scene())


def test_a_refused_bundle_stops_the_start(tmp_path: Path) -> None:
    def start(number: int) -> None:
        raise BundleError("m: damaged")

    async def scene() -> None:
        with pytest.raises(BundleError, match="damaged"):
            await Node(tmp_path, on_start=start).models.start()

    asyncio.run(scene())


def test_stop_while_loading_ends_the_callers_and_starts_nothing_more(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, on_start=lambda number: asyncio.Event().wait())
        ask = asyncio.create_task(node.models.ask("small", CALL))
        await asyncio.sleep(0.01)
        await node.models.stop()
        with pytest.raises(ModelUnavailable, match="stopping"):
            await ask
        with pytest.raises(ModelUnavailable, match="stopping"):
            await node.models.ask("small", CALL)
        assert (node.small.starts, node.small.stops) == (1, 1)

    asyncio.run(scene())


# --- unloading ---------------------------------------------------------------------------------------

MOMENT_S = 0.02


def test_a_model_that_is_not_asked_is_unloaded_and_loaded_again(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, "small", "large", keep_alive_s=MOMENT_S, on_call=raises(None, None))
        await node.models.start()
        await until(lambda: not node.small.alive)
        assert node.processes["large"].alive, "it has no such time"
        assert node.models.pids == {"large": 4711}
        assert await node.models.ask("small", CALL) == ANSWER
        assert (node.small.starts, node.small.stops) == (2, 1)
        await until(lambda: not node.small.alive)
        await node.models.stop()

    asyncio.run(scene())


def test_a_model_that_works_is_not_unloaded(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, keep_alive_s=MOMENT_S, on_call=raises(None))
        await node.models.start()
        waits = asyncio.Event()

        async def slow(
            call: Call, on_chunk: object = None, priority: int = 5, on_hang: object = None
        ) -> Output:
            await waits.wait()
            return ANSWER

        node.small.call = slow  # type: ignore[method-assign]
        asking = asyncio.create_task(node.models.ask("small", CALL))
        await asyncio.sleep(5 * MOMENT_S)
        assert node.small.alive
        waits.set()
        assert await asking == ANSWER
        await until(lambda: not node.small.alive)
        await node.models.stop()

    asyncio.run(scene())


def test_a_request_that_comes_while_it_is_unloaded_waits_for_that(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, keep_alive_s=MOMENT_S, on_call=raises(None))
        await node.models.start()
        order: list[str] = []
        start, stop = node.small.start, node.small.stop

        async def slow_stop() -> None:
            order.append("ends")
            await asyncio.sleep(MOMENT_S)
            await stop()
            order.append("ended")

        async def told_start() -> Any:
            order.append("starts")
            return await start()

        node.small.stop, node.small.start = slow_stop, told_start  # type: ignore[method-assign]
        await until(lambda: bool(order))
        assert await node.models.ask("small", CALL) == ANSWER
        assert order == ["ends", "ended", "starts"]
        await node.models.stop()

    asyncio.run(scene())


def test_how_long_a_model_stays_is_changed_by_what_takes_over_alone(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, on_call=raises(None))
        await node.models.start()

        def no_process(*about: Any) -> Any:
            raise AssertionError("it is the same model")

        def other(keep_alive_s: float | None) -> ModelPool:
            return ModelPool(
                {"small": node.models.bundle("small")},
                {"small": Hardware(3, "cuda")},
                keep_alive_s={"small": keep_alive_s},
                adapters={"small": {tmp_path / "adapter": "sha256:a"}},
                make_process=no_process,
                running=node.models,
            )

        other(MOMENT_S)  # never started: something else of it could not be loaded
        assert await node.models.ask("small", CALL) == ANSWER
        await asyncio.sleep(3 * MOMENT_S)
        assert node.small.alive
        after = other(MOMENT_S)
        await after.start()
        await until(lambda: not node.small.alive)
        await after.stop()

    asyncio.run(scene())


def test_a_node_that_stops_unloads_nothing_more(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, keep_alive_s=MOMENT_S)
        await node.models.start()
        await node.models.stop()
        await asyncio.sleep(3 * MOMENT_S)
        assert node.small.stops == 1

    asyncio.run(scene())


# --- starting anew -----------------------------------------------------------------------------------


def test_an_engine_that_does_nothing_is_started_anew(tmp_path: Path) -> None:
    prepared: list[bool] = []

    async def scene() -> None:
        node = Node(tmp_path, "plain", is_prepared=lambda: bool(prepared), on_call=raises(None))
        assert not node.models.can_be_prepared("plain"), "nobody knows yet"
        await node.models.start()
        assert node.models.can_be_prepared("plain") and not node.models.is_prepared("plain")
        prepared.append(True)
        assert await node.models.renew("plain")
        assert node.models.is_prepared("plain") and not node.models.can_be_prepared("plain")
        assert (node.processes["plain"].starts, node.processes["plain"].stops) == (2, 1)
        assert await node.models.ask("plain", CALL) == ANSWER
        await node.models.stop()

    asyncio.run(scene())


def test_a_call_that_ran_beside_one_that_crashes_its_engine_is_not_taken_for_the_cause(
    tmp_path: Path,
) -> None:
    """Each is tried once more, alone."""

    async def scene() -> None:
        node = Node(tmp_path)
        await node.models.start()
        running: set[str] = set()
        crashed = asyncio.Event()

        async def run(
            call: Call, on_chunk: object = None, priority: int = 5, on_hang: object = None
        ) -> Output:
            assert isinstance(call, Embed)
            name = call.texts[0]
            running.add(name)
            try:
                if name == "bad":
                    crashed.set()
                    node.small.crash()
                    raise EngineCrashed("it crashed")
                if not crashed.is_set():
                    await crashed.wait()
                    raise EngineCrashed("the other crashed it")
                for _ in range(5):
                    await asyncio.sleep(0)
                    assert running == {name}, "it isn't alone"
                return ANSWER
            finally:
                running.discard(name)

        node.small.call = run  # type: ignore[method-assign]
        good = asyncio.create_task(node.models.ask("small", Embed(("good",))))
        await asyncio.sleep(0)
        with pytest.raises(Poisoned):
            await node.models.ask("small", Embed(("bad",)))
        assert await good == ANSWER
        await node.models.stop()

    asyncio.run(scene())


def test_an_engine_that_works_is_not_started_anew(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path)
        await node.models.start()
        waits = asyncio.Event()

        async def slow(
            call: Call, on_chunk: object = None, priority: int = 5, on_hang: object = None
        ) -> Output:
            await waits.wait()
            return ANSWER

        node.small.call = slow  # type: ignore[method-assign]
        asking = asyncio.create_task(node.models.ask("small", CALL))
        await asyncio.sleep(0)
        assert not await node.models.renew("small")
        waits.set()
        assert await asking == ANSWER
        assert await node.models.renew("small")
        assert node.small.starts == 2
        await node.models.stop()

    asyncio.run(scene())


def test_calls_that_come_while_it_is_started_anew_wait_and_share_the_start(tmp_path: Path) -> None:
    async def scene() -> None:
        loaded = asyncio.Event()
        node = Node(
            tmp_path,
            on_start=lambda number: loaded.wait() if number == 2 else None,
            on_call=lambda call: ANSWER,
        )
        await node.models.start()
        renewing = asyncio.create_task(node.models.renew("small"))
        await until(lambda: node.small.starts == 2)
        asks = [asyncio.create_task(node.models.ask("small", CALL)) for _ in range(3)]
        await asyncio.sleep(0)
        assert node.small.calls == []
        loaded.set()
        assert await asyncio.gather(*asks) == [ANSWER] * 3
        assert await renewing
        assert node.small.starts == 2
        await node.models.stop()

    asyncio.run(scene())


def test_an_engine_that_is_unloaded_is_left_so(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, keep_alive_s=MOMENT_S, is_prepared=lambda: False)
        await node.models.start()
        await until(lambda: not node.small.alive)
        assert await node.models.renew("small")
        assert node.small.starts == 1
        await node.models.stop()

    asyncio.run(scene())


def test_one_that_is_started_anew_is_unloaded_too(tmp_path: Path) -> None:
    async def scene() -> None:
        node = Node(tmp_path, keep_alive_s=MOMENT_S)
        await node.models.start()
        await node.models.renew("small")
        assert node.small.starts == 2
        await until(lambda: not node.small.alive)
        await node.models.stop()

    asyncio.run(scene())


def test_the_graph_follows_the_adapters(tmp_path: Path) -> None:
    node = Node(tmp_path, "small", "large")
    assert node.models.graph("large") == "model.onnx"
    assert node.models.graph("small") is None, "it has adapters, and its bundle no graph that takes them"
    assert not node.models.can_be_prepared("small")


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.001)


def test_a_call_that_runs_again_goes_on_with_the_same_text() -> None:
    told: list[str] = []
    pieces = Pieces(told.append)
    for piece in ("one", " two"):
        pieces(piece)
    pieces.begin_again()
    for piece in ("one t", "wo three", " four"):
        pieces(piece)
    assert told == ["one", " two", " three", " four"]


def test_of_a_call_that_runs_again_with_another_text_no_more_is_told() -> None:
    told: list[str] = []
    pieces = Pieces(told.append)
    pieces("one")
    pieces.begin_again()
    for piece in ("two", " three four"):
        pieces(piece)
    assert told == ["one"]
