from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from edgeslm.errors import InvalidRequest
from edgeslm.messages import Request, Result
from edgeslm.serving.quotas import ClientQuotas
from edgeslm.serving.scheduler import FIRST_GUESS_S, MOST_PASSED_OVER, OnChunk, Scheduler, error_result

GIVE_UP_S = 20.0
"""Far more than any wait below: a test that hangs says so."""


def request(name: str = "a", **fields: Any) -> Request:
    return Request(task="t", input="x", id=name, reply_to="r", received_at=time.monotonic(), **fields)


def ok(of: Request) -> Result:
    return Result(of.id, of.task, "ok", {"said": of.id})


class Work:
    """What running a request means here: it waits until its gate is opened, and the order is kept."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self._gates: dict[str, asyncio.Event] = {}

    def gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    async def run(self, request: Request, on_chunk: OnChunk | None, on_start: object = None) -> Result:
        self.begun.append(request.id)
        try:
            await self.gate(request.id).wait()
        finally:
            self.ended.append(request.id)
        return ok(request)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(GIVE_UP_S):
            await scene()

    asyncio.run(limited())


async def settle() -> None:
    """Lets everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def code(result: Result) -> str | None:
    return result.error.code if result.error else None


def test_runs_and_hands_on_chunks() -> None:
    async def scene() -> None:
        async def run(request: Request, on_chunk: OnChunk | None, on_start: object) -> Result:
            assert on_chunk is not None
            on_chunk("piece")
            return ok(request)

        chunks: list[str] = []
        scheduler = Scheduler(run, limit=1, timeout_s=9)
        assert await scheduler.submit(request(), chunks.append) == Result("a", "t", "ok", {"said": "a"})
        assert chunks == ["piece"]
        await settle()
        assert (scheduler.waiting, scheduler.in_flight) == (0, 0)

    play(scene)


def test_priority_then_deadline_then_arrival() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=9)
        soon, late = time.monotonic() + 500, time.monotonic() + 900
        requests = [
            request("first"),
            request("plain"),
            request("late", expires_at=late),
            request("soon", expires_at=soon),
            request("low", priority=0, expires_at=soon),
            request("high", priority=9),
            request("plain too"),
        ]
        tasks = []
        for one in requests:
            work.gate(one.id).set()
            tasks.append(asyncio.create_task(scheduler.submit(one)))
        await asyncio.gather(*tasks)
        assert work.begun == ["first", "high", "soon", "late", "plain", "plain too", "low"]

    play(scene)


def test_a_flood_of_high_priorities_does_not_starve_the_low_ones() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=9)
        names = ["first", "low", *(f"high {number}" for number in range(30))]
        tasks = []
        for name in names:
            work.gate(name).set()
            one = request(name, priority=0 if name == "low" else 9)
            tasks.append(asyncio.create_task(scheduler.submit(one)))
        await asyncio.gather(*tasks)
        assert work.begun.index("low") == MOST_PASSED_OVER + 1

    play(scene)


def test_what_is_more_urgent_than_all_that_runs_does_not_wait() -> None:
    """One more than there are slots: what it interrupts is in memory too."""

    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=9)
        names = {"long": 5, "equal": 5, "urgent": 6, "more urgent": 7, "behind": 5}
        tasks = []
        for name, priority in names.items():
            tasks.append(asyncio.create_task(scheduler.submit(request(name, priority=priority))))
            await settle()
        assert (work.begun, scheduler.in_flight) == (["long", "urgent"], 2)
        work.gate("urgent").set()
        await settle()
        assert work.begun == ["long", "urgent", "more urgent"]
        work.gate("more urgent").set()
        await settle()
        assert scheduler.in_flight == 1, "what is no more urgent waits as ever"
        for name in names:
            work.gate(name).set()
        await asyncio.gather(*tasks)
        assert work.begun == ["long", "urgent", "more urgent", "equal", "behind"]

    play(scene)


def test_a_flood_of_urgent_requests_does_not_starve_one_that_runs() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=9)
        long = asyncio.create_task(scheduler.submit(request("long")))
        await settle()
        floods = []
        for number in range(MOST_PASSED_OVER + 4):
            work.gate(f"urgent {number}").set()
            floods.append(asyncio.create_task(scheduler.submit(request(f"urgent {number}", priority=9))))
            await settle()
        assert len(work.begun) == 1 + MOST_PASSED_OVER, "the others wait until it is done"
        work.gate("long").set()
        await asyncio.gather(long, *floods)

    play(scene)


def test_the_time_of_a_request_that_was_interrupted_teaches_nothing() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=9)
        long = asyncio.create_task(scheduler.submit(request("long")))
        await settle()
        urgent = asyncio.create_task(scheduler.submit(request("urgent", priority=9)))
        await asyncio.sleep(0.05)
        work.gate("long").set()
        await long
        behind = asyncio.create_task(scheduler.submit(request("behind")))
        await settle()
        assert scheduler.wait_s == FIRST_GUESS_S
        work.gate("urgent").set()
        work.gate("behind").set()
        await asyncio.gather(urgent, behind)

    play(scene)


def test_who_comes_is_admitted_without_a_look_at_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands in the queue that look would cost more than all the rest of a request."""
    work = Work()
    scheduler = Scheduler(work.run, limit=100, timeout_s=60)

    def never(*_: object) -> float:
        raise AssertionError("it was looked at")

    async def scene() -> None:
        running = [asyncio.create_task(scheduler.submit(request(str(number)))) for number in range(5)]
        await settle()
        monkeypatch.setattr(Scheduler, "wait_s", property(never))
        running += [asyncio.create_task(scheduler.submit(request(str(number)))) for number in range(5, 20)]
        await settle()
        assert scheduler.waiting == 19
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    play(scene)


async def measured(scheduler: Scheduler, work: Work, took_s: float) -> None:
    """Lets the scheduler know how long the task takes."""
    one = asyncio.create_task(scheduler.submit(request("measured")))
    await asyncio.sleep(took_s)
    work.gate("measured").set()
    assert (await one).status == "ok"


def test_what_would_only_expire_is_busy_at_once() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=900)
        await measured(scheduler, work, 0.05)
        tasks = [asyncio.create_task(scheduler.submit(request(f"r{number}"))) for number in range(21)]
        await settle()
        late = await scheduler.submit(request("late", priority=0, expires_at=time.monotonic() + 0.2))
        assert code(late) == "busy"
        assert late.error is not None and (late.error.retry_after_ms or 0) >= 1000
        first = request("first", expires_at=time.monotonic() + 900, priority=9)
        tasks.append(asyncio.create_task(scheduler.submit(first)))
        for name in ["first", *(f"r{number}" for number in range(21))]:
            work.gate(name).set()
        assert {(await task).status for task in tasks} == {"ok"}

    play(scene)


def test_of_a_task_that_was_never_run_nothing_is_foretold() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=900)
        tasks = [asyncio.create_task(scheduler.submit(request(name))) for name in "abc"]
        await settle()
        late = asyncio.create_task(scheduler.submit(request("late", expires_at=time.monotonic() + 0.05)))
        assert code(await late) == "expired"
        for name in "abc":
            work.gate(name).set()
        await asyncio.gather(*tasks)

    play(scene)


def test_what_can_t_be_done_in_the_time_left_is_not_begun() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=900)
        await measured(scheduler, work, 0.5)
        assert code(await scheduler.submit(request("hasty", expires_at=time.monotonic() + 0.1))) == "expired"
        assert work.begun == ["measured"]

    play(scene)


def test_one_slow_run_does_not_refuse_all_others_for_ever() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=99, timeout_s=900)
        await measured(scheduler, work, 0.5)
        work.gate("hasty").set()
        for _ in range(20):
            result = await scheduler.submit(request("hasty", expires_at=time.monotonic() + 0.1))
            if code(result) is None:
                return
        raise AssertionError("nothing measures it again")

    play(scene)


def test_at_most_so_many_run_at_once() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=9, slots=2)
        tasks = [asyncio.create_task(scheduler.submit(request(name))) for name in "abc"]
        await settle()
        assert (scheduler.in_flight, scheduler.waiting) == (2, 1)
        work.gate("b").set()
        await settle()
        assert work.begun == ["a", "b", "c"]
        for name in "ac":
            work.gate(name).set()
        assert [result.status for result in await asyncio.gather(*tasks)] == ["ok"] * 3

    play(scene)


def test_more_may_run_from_now_on() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=9)
        tasks = [asyncio.create_task(scheduler.submit(request(name))) for name in "abc"]
        await settle()
        assert work.begun == ["a"]
        scheduler.resize(limit=5, slots=3)
        await settle()
        assert (work.begun, scheduler.limit) == (["a", "b", "c"], 5)
        for name in "abc":
            work.gate(name).set()
        assert [result.status for result in await asyncio.gather(*tasks)] == ["ok"] * 3

    play(scene)


def test_expired_on_arrival_is_never_run() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=1, timeout_s=9)
        result = await scheduler.submit(request(expires_at=time.monotonic() - 1))
        assert code(result) == "expired"
        assert work.begun == []

    play(scene)


def test_expires_while_it_waits_and_not_only_when_its_turn_comes() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=1, timeout_s=900)
        running = asyncio.create_task(scheduler.submit(request("a")))
        await settle()
        result = await scheduler.submit(request("b", expires_at=time.monotonic() + 0.02))
        assert code(result) == "expired"
        assert scheduler.waiting == 0, "it still takes a place in the queue"
        work.gate("a").set()
        assert (await running).status == "ok"
        assert work.begun == ["a"]

    play(scene)


def test_while_it_is_paused_requests_wait_and_their_time_is_not_counted() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=0.05)
        scheduler.pause()
        waiting = asyncio.create_task(scheduler.submit(request("a")))
        hasty = await scheduler.submit(request("b", expires_at=time.monotonic() + 0.1))
        assert (code(hasty), work.begun) == ("expired", [])
        work.gate("a").set()
        scheduler.resume()
        assert (await waiting).status == "ok"

    play(scene)


def test_timeout_of_the_node_ends_the_work() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=1, timeout_s=0.2)
        result = await scheduler.submit(request())
        assert code(result) == "timeout"
        assert work.ended == ["a"]
        work.gate("b").set()
        assert (await scheduler.submit(request("b"))).status == "ok"

    play(scene)


def test_deadline_of_the_request_ends_the_work() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=1, timeout_s=900)
        result = await scheduler.submit(request(expires_at=time.monotonic() + 0.02))
        assert code(result) in ("timeout", "expired")
        assert work.begun == work.ended

    play(scene)


def test_a_timeout_inside_the_work_is_not_the_nodes() -> None:
    async def run(request: Request, on_chunk: OnChunk | None, on_start: object) -> Result:
        raise TimeoutError

    async def scene() -> None:
        assert code(await Scheduler(run, limit=1, timeout_s=900).submit(request())) == "internal"

    play(scene)


def test_cancels_running_and_waiting() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=9)
        tasks = [asyncio.create_task(scheduler.submit(request(name))) for name in "abc"]
        await settle()
        assert scheduler.cancel(lambda request: request.id == "nobody") == 0
        assert scheduler.cancel(lambda request: request.id in "ab") == 2
        assert [code(result) for result in await asyncio.gather(*tasks[:2])] == ["cancelled"] * 2
        work.gate("c").set()
        assert (await tasks[2]).status == "ok"
        assert work.ended == ["a", "c"]
        assert scheduler.cancel(lambda request: True) == 0

    play(scene)


def test_cancel_between_its_turn_and_its_start() -> None:
    """It has left the queue, but its work has not begun: it must not begin any more."""

    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=9)
        task = asyncio.create_task(scheduler.submit(request()))
        await asyncio.sleep(0)  # submit has run, the work that it made has not
        assert scheduler.in_flight == 1
        assert work.begun == []
        assert scheduler.cancel(lambda request: True) == 1
        assert code(await task) == "cancelled"
        await settle()
        assert work.begun == []
        assert scheduler.in_flight == 0

    play(scene)


def test_whoever_asks_and_goes_away_takes_the_work_along() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=9, timeout_s=9)
        running = asyncio.create_task(scheduler.submit(request("a")))
        waiting = asyncio.create_task(scheduler.submit(request("b")))
        await settle()
        waiting.cancel()
        running.cancel()
        await asyncio.wait([running, waiting])
        await settle()
        assert (work.begun, work.ended) == (["a"], ["a"])
        assert (scheduler.waiting, scheduler.in_flight) == (0, 0)

    play(scene)


@pytest.mark.parametrize("goes_away", [True, False])
def test_who_goes_away_before_the_end_pays_for_what_came(goes_away: bool) -> None:
    async def run(request: Request, on_chunk: OnChunk | None, on_start: object) -> Result:
        assert on_chunk is not None
        for _ in range(40):
            on_chunk("word ")
        await asyncio.sleep(GIVE_UP_S)
        return ok(request)

    async def scene() -> None:
        quotas = ClientQuotas(9, tokens_per_min=50)
        scheduler = Scheduler(run, limit=9, timeout_s=9, quotas=quotas)
        asked = dataclasses.replace(request("a", sender="s"), input="x" * 80)
        for _ in range(2):
            task = asyncio.create_task(scheduler.submit(asked, lambda text: None))
            await settle()
            if goes_away:
                task.cancel()
            else:
                scheduler.cancel(lambda request: True)
            await asyncio.wait([task])
        assert task.cancelled() is False and code(task.result()) == "busy", "40 pieces and 20 tokens of text"
        scheduler.pause()
        other = asyncio.create_task(scheduler.submit(request("b", sender="t"), lambda text: None))
        await settle()
        other.cancel()
        await asyncio.wait([other])
        quotas.admit("t", lambda: 1.0)  # it never ran, and cost nothing

    play(scene)


def test_a_full_queue_is_busy_and_says_when_to_come_again() -> None:
    async def scene() -> None:
        work = Work()
        scheduler = Scheduler(work.run, limit=2, timeout_s=9)
        tasks = [asyncio.create_task(scheduler.submit(request(name))) for name in "abc"]
        await settle()
        result = await scheduler.submit(request("d"))
        assert result.error is not None
        assert result.error.code == "busy"
        assert (result.error.retry_after_ms or 0) > 0
        for name in "abc":
            work.gate(name).set()
        assert [result.status for result in await asyncio.gather(*tasks)] == ["ok"] * 3

    play(scene)


def test_an_error_of_the_request_is_its_result() -> None:
    async def run(request: Request, on_chunk: OnChunk | None, on_start: object) -> Result:
        raise InvalidRequest("say it otherwise")

    async def scene() -> None:
        result = await Scheduler(run, limit=1, timeout_s=9).submit(request())
        assert result.error is not None
        assert (result.error.code, result.error.message) == ("invalid_request", "say it otherwise")
        assert result.timings_ms["total"] >= 0

    play(scene)


def test_a_bug_is_internal_and_its_text_stays_out_of_logs_and_results(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run(request: Request, on_chunk: OnChunk | None, on_start: object) -> Result:
        raise KeyError("the secret message")

    async def scene() -> None:
        result = await Scheduler(run, limit=1, timeout_s=9).submit(request())
        assert result.error is not None
        assert result.error.code == "internal"
        assert "KeyError" in result.error.message
        assert "secret" not in result.error.message

    with caplog.at_level(logging.INFO):
        play(scene)
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


def test_an_error_without_a_time_of_receipt_has_no_time() -> None:
    bare = dataclasses.replace(request(), received_at=0.0)
    assert error_result(bare, InvalidRequest("no")).timings_ms == {"total": 0.0}


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_each_request_has_one_result(seed: int) -> None:
    """Random priorities, deadlines, ways to end, cancels and senders that go away."""
    dice = random.Random(seed)

    async def run(request: Request, on_chunk: OnChunk | None, on_start: object) -> Result:
        way = dice.randrange(5)
        if way == 0:
            raise InvalidRequest("no")
        if way == 1:
            raise ZeroDivisionError
        await asyncio.sleep(dice.choice([0, 0, 0.001, 0.002, 5]))
        return ok(request)

    async def scene() -> None:
        scheduler = Scheduler(run, limit=dice.randrange(1, 12), timeout_s=0.01, slots=dice.randrange(1, 4))
        tasks: dict[str, asyncio.Task[Result]] = {}
        gone: set[str] = set()
        for number in range(60):
            name = str(number)
            lives_s = dice.choice([None, -1.0, 0.001, 0.01, 60.0])
            expires_at = None if lives_s is None else time.monotonic() + lives_s
            one = request(name, priority=dice.randrange(10), expires_at=expires_at)
            tasks[name] = asyncio.create_task(scheduler.submit(one))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(dice.choice([0, 0, 0.001]))
            other = str(dice.randrange(60))
            if dice.random() < 0.2:
                scheduler.cancel(lambda request, other=other: request.id == other)  # type: ignore[misc]
            if dice.random() < 0.1 and other in tasks:
                tasks[other].cancel()
                gone.add(other)
        done, _ = await asyncio.wait(tasks.values())
        assert len(done) == 60
        for name, task in tasks.items():
            if task.cancelled():
                assert name in gone
                continue
            result = task.result()
            assert result.id == name
            assert (result.result is None) == (result.status == "error") == (result.error is not None)
        await settle()
        assert (scheduler.waiting, scheduler.in_flight) == (0, 0)

    play(scene)
