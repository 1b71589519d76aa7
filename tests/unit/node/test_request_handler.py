from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.sections import Limits, Tracing
from edgeslm.messages import Request, Result
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.attempts import AttemptLog
from edgeslm.node.in_flight import Admission, InFlight
from edgeslm.node.request_handler import RequestHandler
from edgeslm.protocol.codec import Cancel, Rejected, Topics, encode_result, parse_result
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.storage.database import Database
from edgeslm.storage.journal import Journal
from edgeslm.telemetry.health import Meter
from edgeslm.telemetry.tracing import Tracer
from tests.support.fakes import make_delivery

REPLIES = ("edgeslm/v1/+/res/#",)


class FakeBus:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.shortages = 0

    def publish(self, message: OutgoingMessage) -> asyncio.Future[None]:
        if self.shortages:
            self.shortages -= 1
            raise MemoryError
        self.published.append((message.topic, message.payload))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Harness:
    """A handler with a journal in ``folder``, and the backend of it; ``answers`` counts what was run."""

    def __init__(self, folder: Path) -> None:
        self.bus, self.meter = FakeBus(), Meter()
        self.notes: list[str] = []
        self.acknowledged: list[int] = []
        """How much was published before each acknowledgement."""
        self.database = Database(folder / "journal.sqlite")
        self.database.open()
        self.journal = Journal(self.database, window_s=3600, limit_bytes=1_000_000)
        self.journal.open()
        self.answers = 0
        self.gate: asyncio.Event | None = None
        publisher = Publisher(self.bus, Topics("hall"))  # type: ignore[arg-type]
        self.admission = Admission(Limits(), self, publisher, self.meter)
        tracer = Tracer(Tracing(), "hall")
        self.handler = RequestHandler(
            self, self.admission, publisher, self.journal, self.meter, tracer, REPLIES, 10_000
        )

    def acknowledge(self, held: InFlight) -> None:
        self.acknowledged.append(len(self.bus.published))

    def accept(self, request: Request) -> None:
        if request.input == "refuse":
            raise MemoryError
        self.notes.append("accepted")

    def note(self, what: str, request: Request | Rejected, result: Result | None, size: int | None) -> None:
        self.notes.append(what)

    def cancel(self, cancel: Cancel, pool: str | None) -> None:
        self.notes.append(f"cancel {cancel.id} of {pool}")

    async def answer(self, request: Request, attempt: AttemptLog, held: InFlight) -> tuple[Result, bytes]:
        self.answers += 1
        if request.input == "fail":
            raise ZeroDivisionError
        if self.gate is not None:
            await self.gate.wait()
        result = Result(request.id, request.task, "ok", {"label": "normal"})
        payload = encode_result(result)
        if attempt.key is not None:
            self.journal.finish(attempt.key, attempt.lost + 1, payload)
        return result, payload

    async def serve(self, payload: bytes, **fields: Any) -> None:
        held = InFlight(make_delivery(payload, **fields), 0, is_request=True)
        (task,) = self.admission.admit(held, self.handler.handle(held, Topics("hall"), "triage"))
        await asyncio.wait([task])

    async def serve_twice(self) -> tuple[asyncio.Event, list[asyncio.Task[None]]]:
        """A request whose repeat waits for it, until the event is set."""
        self.gate = asyncio.Event()
        both = [asyncio.create_task(self.serve(b"text", correlation=b"42")) for _ in range(2)]
        while not self.meter.repeats["attached"]:
            await asyncio.sleep(0)
        return self.gate, both

    def close(self) -> None:
        self.journal.close()
        self.database.close()


def test_a_named_request_is_answered_once_and_its_repeat_gets_the_same_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        harness = Harness(tmp_path)
        for _ in range(2):
            await harness.serve(b"text", correlation=b"42")
        assert harness.answers == 1
        assert len(set(harness.bus.published)) == 1 and len(harness.bus.published) == 2
        assert harness.notes == ["accepted", "request", "accepted", "repeat"]
        assert harness.acknowledged == [1, 2], "a request is acknowledged after its result"
        await harness.serve(b"text")
        await harness.serve(b"text")
        assert harness.answers == 3, "requests without a name are never repeats"
        harness.close()

    asyncio.run(main())


def test_a_repeat_of_what_is_being_answered_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        harness = Harness(tmp_path)
        gate, both = await harness.serve_twice()
        gate.set()
        await asyncio.gather(*both)
        assert (harness.answers, len(harness.bus.published)) == (1, 1)
        harness.close()

    asyncio.run(main())


def test_what_is_no_request_and_a_mistake_of_ours_are_answered_too(tmp_path: Path) -> None:
    async def main() -> None:
        harness = Harness(tmp_path)
        await harness.serve(b"{")
        await harness.serve(b"fail")
        codes = [error.code for _, payload in harness.bus.published if (error := parse_result(payload).error)]
        assert codes == ["invalid_request", "internal"]
        await harness.serve(b"text", retain=True)
        assert harness.meter.dropped["retained"] == 1 and len(harness.bus.published) == 2
        harness.close()

    asyncio.run(main())


@pytest.mark.parametrize("shortages", [0, 1])
def test_a_request_that_the_handler_fails_on_is_answered_and_reported_dead(
    tmp_path: Path, shortages: int
) -> None:
    """Also where there is too little memory to refuse it."""

    async def main() -> None:
        harness = Harness(tmp_path)
        harness.bus.shortages = shortages
        topics = Topics("hall")
        await harness.serve(b"refuse", topic=topics.request("triage"), correlation=b"seven")
        *_, (to, result), (dead, report) = harness.bus.published
        assert harness.acknowledged == [len(harness.bus.published)], "it is acknowledged after both"
        error = parse_result(result).error
        assert (to, error and error.code) == (topics.result("triage"), "internal")
        assert (dead, json.loads(report)["reason"]) == (topics.dead, "internal")
        harness.close()

    asyncio.run(main())


def test_a_request_that_is_broken_off_is_neither_answered_nor_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        harness = Harness(tmp_path)
        _, both = await harness.serve_twice()
        harness.admission.abandon()
        await asyncio.gather(*both, return_exceptions=True)
        assert (harness.bus.published, harness.acknowledged) == ([], [])
        harness.close()

    asyncio.run(main())


def test_what_cancels_a_request_is_acknowledged_also_if_it_names_none(tmp_path: Path) -> None:
    async def main() -> None:
        harness = Harness(tmp_path)
        for payload in (b"{}", b'{"id": "7"}'):
            held = InFlight(make_delivery(payload), 0)
            harness.admission.admit(held, harness.handler.cancel(held, "line"))
        await harness.admission.drain(10)
        assert (harness.notes, harness.acknowledged) == (["cancel 7 of line"], [0, 0])
        harness.close()

    asyncio.run(main())
