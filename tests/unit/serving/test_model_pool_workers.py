"""A model with several workers: what is left of it goes on, what is missing comes up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import Hardware
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.engine.host.team import EngineTeam
from edgeslm.serving.model_pool import ModelPool
from tests.support.fakes import FakeAttempt, FakeProcess
from tests.support.nodes import write_bundle
from tests.unit.serving.test_model_pool import ANSWER, CALL, MOMENT_S, raises, until


class Crew:
    """A model with two workers, which are no processes."""

    def __init__(self, folder: Path, *, keep_alive_s: float | None = None, **fakes: Any) -> None:
        bundle = load_bundle(write_bundle(folder / "small"))
        self.workers = [FakeProcess(bundle.path, **fakes) for _ in range(2)]
        self.models = ModelPool(
            {"small": bundle},
            {"small": Hardware(1, workers=2)},
            keep_alive_s={"small": keep_alive_s},
            make_process=lambda bundle, hardware, adapters: EngineTeam(self.workers),
        )

    @property
    def starts(self) -> list[int]:
        return [worker.starts for worker in self.workers]

    @property
    def alive(self) -> list[bool]:
        return [worker.alive for worker in self.workers]


def test_each_worker_has_its_pid(tmp_path: Path) -> None:
    async def scene() -> None:
        crew = Crew(tmp_path)
        await crew.models.start()
        assert crew.models.pids == {"small": 4711, "small#2": 4711}
        await crew.models.stop()
        assert crew.models.pids == {}

    asyncio.run(scene())


def test_a_worker_that_ended_is_started_while_the_other_answers(tmp_path: Path) -> None:
    async def scene() -> None:
        crew = Crew(tmp_path, on_call=raises(None, None))
        await crew.models.start()
        await crew.workers[0].stop()
        assert crew.models.is_loaded("small")
        assert await crew.models.ask("small", CALL) == ANSWER
        await until(lambda: all(crew.alive))
        assert crew.starts == [2, 1]
        await crew.models.stop()

    asyncio.run(scene())


def test_a_worker_that_can_not_be_started_again_leaves_the_other_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again later, not with each request."""

    def on_start(number: int) -> None:
        if number > 1:
            raise EngineCrashed("no memory")

    async def scene() -> None:
        crew = Crew(tmp_path, on_start=on_start, on_call=raises(*[None] * 5))
        await crew.models.start()
        await crew.workers[0].stop()
        for _ in range(5):
            assert await crew.models.ask("small", CALL) == ANSWER
            await asyncio.sleep(0.01)
        assert crew.starts == [2, 1]
        assert caplog.text.count("a worker of small is missing: no memory") == 1
        await crew.models.stop()

    asyncio.run(scene())


def test_a_crash_of_one_worker_is_tried_again_on_the_other(tmp_path: Path) -> None:
    async def scene() -> None:
        crew = Crew(tmp_path, on_call=raises(EngineCrashed("x"), None))
        await crew.models.start()
        attempt = FakeAttempt()
        assert await crew.models.ask("small", CALL, attempt=attempt) == ANSWER
        assert attempt.told == ["compute", "crash", "compute"]
        await until(lambda: all(crew.alive))
        await crew.models.stop()

    asyncio.run(scene())


def test_what_is_left_of_a_model_is_unloaded_and_renewed_as_a_whole(tmp_path: Path) -> None:
    async def scene() -> None:
        crew = Crew(tmp_path, keep_alive_s=MOMENT_S)
        await crew.models.start()
        await crew.workers[0].stop()
        await until(lambda: not any(crew.alive))
        assert crew.workers[1].stops == 1
        await crew.models.stop()
        other = Crew(tmp_path / "other")
        await other.models.start()
        await other.workers[0].stop()
        assert await other.models.renew("small")
        assert (other.starts, other.alive) == ([2, 2], [True, True])
        await other.models.stop()

    asyncio.run(scene())
