"""Several workers as one: who gets a call, and what is left when one of them ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeslm.engine.calls import Call, Embed, Generate, Output, Prompt, Score, Text, Turn
from edgeslm.engine.host.process import EngineCrashed
from edgeslm.engine.host.team import EngineTeam
from edgeslm.errors import BundleError
from tests.support.fakes import FakeProcess
from tests.support.nodes import write_bundle

CALL = Embed(("a",), "error")


class Held(FakeProcess):
    """Answers when the test says so, with its own name; ``pid`` is the test's."""

    def __init__(self, bundle: Path, number: int, **fields: Any) -> None:
        super().__init__(bundle, **fields)
        self.number = number
        self.go = asyncio.Event()
        self.before_it = 0

    @property
    def pid(self) -> int | None:
        return 100 + self.number if self.alive else None

    @property
    def unanswered(self) -> int:
        return self.before_it

    async def call(self, call: Call, on_chunk: Any = None, priority: int = 5, on_hang: Any = None) -> Output:
        self.calls.append(call)
        self.before_it += 1
        await self.go.wait()
        self.before_it -= 1
        if not self.alive:
            raise EngineCrashed("it ended")
        return Output(text=str(self.number))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "small", "encoder")


def test_a_call_goes_to_the_one_with_the_fewest(bundle: Path) -> None:
    async def scene() -> None:
        members = [Held(bundle, number) for number in range(3)]
        team = EngineTeam(members)
        assert (team.alive, team.pids, team.info) == (False, (), None)
        await team.start()
        assert (team.alive, team.pids) == (True, (100, 101, 102))
        calls = [asyncio.create_task(team.call(CALL)) for _ in range(6)]
        await asyncio.sleep(0)
        assert [len(member.calls) for member in members] == [2, 2, 2]
        members[1].go.set()
        await asyncio.sleep(0.01)
        calls += [asyncio.create_task(team.call(CALL)) for _ in range(2)]
        await asyncio.sleep(0)
        assert [len(member.calls) for member in members] == [2, 4, 2]
        for member in members:
            member.go.set()
        texts = Counter(output.text for output in await asyncio.gather(*calls))
        assert texts == {"0": 2, "1": 4, "2": 2}
        await team.stop()
        assert [member.stops for member in members] == [1, 1, 1]

    asyncio.run(scene())


def test_one_that_ended_is_started_again_and_the_others_go_on(bundle: Path) -> None:
    async def scene() -> None:
        members = [Held(bundle, number) for number in range(2)]
        team = EngineTeam(members)
        await team.start()
        lost, kept = (asyncio.create_task(team.call(CALL)) for _ in range(2))
        await asyncio.sleep(0)
        await FakeProcess.stop(members[0])
        members[0].go.set()
        with pytest.raises(EngineCrashed):
            await lost
        assert (team.alive, team.ready, team.complete) == (True, True, False)
        assert (team.pids, members[0].before_it) == ((101,), 0)
        more = asyncio.create_task(team.call(CALL))
        await asyncio.sleep(0)
        assert len(members[1].calls) == 2, "none goes to one that is not there"
        await team.start()
        assert (team.alive, [member.starts for member in members]) == (True, [2, 1])
        members[1].go.set()
        assert [(await call).text for call in (kept, more)] == ["1", "1"]

    asyncio.run(scene())


def test_a_call_that_was_given_up_counts_until_its_worker_is_done_with_it(bundle: Path) -> None:
    async def scene() -> None:
        members = [Held(bundle, number) for number in range(2)]
        team = EngineTeam(members)
        await team.start()
        members[0].before_it = 1  # it hangs in what nobody waits for any more
        members[1].go.set()
        assert (await team.call(CALL)).text == "1"

    asyncio.run(scene())


@pytest.mark.parametrize("kind", ["write", "label"])
def test_what_is_only_read_is_read_by_all(kind: str, bundle: Path) -> None:
    prompt = Prompt((Turn("user", (Text("a"),)),))
    call = Generate(prompt, 1) if kind == "write" else Score(prompt, ("a", "b"))

    async def scene() -> None:
        members = [Held(bundle, number) for number in range(3)]
        team = EngineTeam(members)
        await team.start()
        for member in members:
            member.go.set()
        await team.call(replace(call, only_read=True))
        assert [len(member.calls) for member in members] == [1, 1, 1]
        await team.call(call)
        assert [len(member.calls) for member in members] == [2, 1, 1]

    asyncio.run(scene())


def test_a_refused_bundle_is_told_and_what_was_started_can_be_stopped(bundle: Path) -> None:
    def refuse(number: int) -> None:
        raise BundleError("damaged")

    async def scene() -> None:
        members = [Held(bundle, 0), Held(bundle, 1, on_start=refuse)]
        team = EngineTeam(members)
        with pytest.raises(BundleError, match="damaged"):
            await team.start()
        assert (team.ready, team.complete) == (True, False)
        await team.stop()
        assert (team.alive, team.pids) == (False, ())

    asyncio.run(scene())


def test_a_team_is_prepared_where_all_are(bundle: Path) -> None:
    async def scene() -> None:
        found = [True, False]
        members = [
            Held(bundle, number, is_prepared=lambda number=number: found[number]) for number in range(2)
        ]
        team = EngineTeam(members)
        info = await team.start()
        assert not info.prepared
        assert team.takes_prepared
        found[1] = True
        await team.stop()
        assert (await team.start()).prepared
        assert not EngineTeam([*members, Held(bundle, 2)]).takes_prepared

    asyncio.run(scene())


def test_losses_are_those_of_all(bundle: Path) -> None:
    members = [FakeProcess(bundle), FakeProcess(bundle)]
    members[0].losses, members[1].losses = 2, 1
    assert EngineTeam(members).losses == 3
