"""When decoders are prepared, what of, and what becomes of their engines: real models on fake processes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.calls import Adapters, Hardware
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.engine.worker.prepared import CACHE, Index, folder_of
from edgeslm.errors import BundleError, SelfTestError
from edgeslm.serving import prepare as prepare_module
from edgeslm.serving.model_pool import ModelPool
from edgeslm.serving.prepare import Prepacker, QuietTimes
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle

LONG_S = 3600.0


@dataclass
class FakePrepare:
    """Makes nothing, and from then on the engines find it; ``error`` is raised instead."""

    error: Exception | None = None
    asked: list[tuple[str, str, set[str]]] = field(default_factory=list)

    async def __call__(
        self, bundle: Bundle, graph: str, state_dir: Path, *, background: bool, keep: Sequence[str]
    ) -> Index:
        assert background
        self.asked.append((bundle.path.name, graph, set(keep)))
        if self.error is not None:
            raise self.error
        fields: dict[str, Any] = {"bundle": bundle.digest, "graph": graph, "machine": "m", "files": ()}
        return Index(**fields, cores=2, threads=2, seconds={})


class Node:
    """Decoders and an encoder, idle for an hour unless told otherwise."""

    def __init__(
        self,
        folder: Path,
        *names: str,
        prepare: Callable[..., Coroutine[Any, Any, Index]] | None = None,
        takes: bool = True,
        **fakes: Any,
    ) -> None:
        self.fake = FakePrepare()
        self.processes: dict[str, FakeProcess] = {}
        self.changes = 0
        self.answers: Iterator[float] = itertools.repeat(LONG_S)
        self.state_dir = folder / "state"

        def make(bundle: Bundle, hardware: Hardware, adapters: Adapters) -> FakeProcess:
            is_prepared = (lambda: bool(self.fake.asked)) if takes else None
            process = FakeProcess(bundle.path, is_prepared=is_prepared, **fakes)
            self.processes[bundle.path.name] = process
            return process

        bundles = {name: load_bundle(write_bundle(folder / name)) for name in names or ("small",)}
        bundles["encoder"] = load_bundle(write_bundle(folder / "encoder", "encoder"))
        self.digests = {bundle.digest for bundle in bundles.values()}
        self.models = ModelPool(bundles, {}, make_process=make)
        self.prepacker = Prepacker(self.models, self.state_dir, self, QuietTimes(next_s=0.001))
        self._prepare = prepare or self.fake

    async def renewed(self) -> None:
        self.changes += 1

    def idle_s(self) -> float:
        return next(self.answers)

    def starts(self) -> dict[str, int]:
        return {name: process.starts for name, process in self.processes.items()}

    def run(self, until: Callable[[], bool]) -> None:
        """Until it is so, and all is done that can be."""

        async def scene() -> None:
            await self.models.start()
            running = asyncio.create_task(self.prepacker.run())
            async with asyncio.timeout(30):
                while not until():
                    await asyncio.sleep(0.001)
            for _ in range(20):
                await asyncio.sleep(0)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await self.models.stop()

        with mock.patch.object(prepare_module, "prepare", self._prepare):
            asyncio.run(scene())


def test_a_decoder_is_prepared_and_started_on_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    node = Node(tmp_path)
    node.run(lambda: node.changes > 0)
    assert node.fake.asked == [("small", "model.onnx", node.digests)]
    assert node.starts() == {"small": 2, "encoder": 1}
    assert node.models.is_prepared("small")
    assert (node.changes, node.prepacker.problems) == (1, [])
    assert "small is prepared: 0 MB for this processor" in caplog.text


def test_it_waits_until_there_is_nothing_to_do(tmp_path: Path) -> None:
    node = Node(tmp_path)
    answers = iter([9.99, 9.998, 9.999, LONG_S, 0.0, 0.0009, LONG_S, 0.0, LONG_S])
    seen: list[tuple[int, int]] = []

    def idle_s() -> Iterator[float]:
        for answer in answers:
            seen.append((len(node.fake.asked), node.processes["small"].starts))
            yield answer

    node.answers = idle_s()
    node.run(lambda: node.changes > 0)
    assert seen == [*[(0, 1)] * 7, *[(1, 1)] * 2], "ten seconds first, then a moment before each step"


def test_what_can_not_be_prepared_is_told_once_and_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path, "small", "large")
    node.fake.error = BundleError("there is no room")
    node.run(lambda: len(node.fake.asked) == 1)  # both are the same bundle
    assert node.starts() == {"small": 1, "large": 1, "encoder": 1}
    assert (node.changes, node.prepacker.problems) == (0, [])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage().endswith("small is not prepared until the next start: there is no room")


@pytest.mark.parametrize("error", [OSError(5, "the disk is ill"), ValueError("it said no JSON")])
def test_nothing_that_goes_wrong_ends_it(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    node = Node(tmp_path)
    node.fake.error = error
    node.run(lambda: str(error) in caplog.text)
    assert node.starts()["small"] == 1


def test_other_answers_than_on_the_build_machine_are_a_problem(tmp_path: Path) -> None:
    node = Node(tmp_path)
    bundle = node.models.bundle("small").path
    node.fake.error = SelfTestError(f"{bundle}: 2 of 8 answers are others")
    node.run(lambda: bool(node.prepacker.problems))
    assert node.prepacker.problems == ["Model small: 2 of 8 answers are others."]
    assert node.starts()["small"] == 1


def test_models_of_one_bundle_share_what_is_prepared(tmp_path: Path) -> None:
    node = Node(tmp_path, "small", "large")
    node.run(lambda: node.changes == 2)
    assert len(node.fake.asked) == 1
    assert node.starts() == {"small": 2, "large": 2, "encoder": 1}


def test_engines_that_take_nothing_are_left_alone(tmp_path: Path) -> None:
    """Such as one that crashed on what was prepared."""
    node = Node(tmp_path, takes=False)
    left = iter([LONG_S])
    node.answers = itertools.chain(left, itertools.repeat(LONG_S))
    node.run(lambda: next(left, None) is None)
    assert node.fake.asked == []


def test_a_model_that_works_is_started_anew_later(tmp_path: Path) -> None:
    node = Node(tmp_path)
    renew, answers = node.models.renew, iter([False, False])

    async def busy_first(name: str) -> bool:
        return next(answers, None) is None and await renew(name)

    node.models.renew = busy_first  # type: ignore[method-assign]
    node.run(lambda: node.changes > 0)
    assert list(answers) == []
    assert node.starts()["small"] == 2


def test_an_engine_that_does_not_come_back_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def start(number: int) -> None:
        if number > 1:
            raise EngineCrashed("it ended while loading")

    node = Node(tmp_path, on_start=start)
    node.run(lambda: "could not be restarted" in caplog.text)
    assert "model small could not be restarted with prepared weights: it ended while loading" in caplog.text
    assert node.changes == 0


def test_cancelled_it_gives_up_what_is_being_prepared(tmp_path: Path) -> None:
    ended: list[str] = []
    began: list[str] = []

    async def for_ever(bundle: Bundle, *_: object, **__: object) -> Index:
        began.append(bundle.path.name)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(bundle.path.name)
        raise AssertionError

    node = Node(tmp_path, prepare=for_ever)
    node.run(lambda: bool(began))
    assert ended == ["small"]


def test_what_is_used_is_marked(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.fake.asked.append(("before", "model.onnx", set()))
    folder = folder_of(node.models.bundle("small"), "model.onnx", node.state_dir / CACHE)
    folder.mkdir(parents=True)
    os.utime(folder, (0, 0))
    node.run(lambda: folder.stat().st_mtime > 0)
    assert node.starts()["small"] == 1
