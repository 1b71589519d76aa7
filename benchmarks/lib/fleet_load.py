"""Open-loop client: requests at a given rate, and their latencies.

A closed-loop client offers less to a slow system and measures too low a latency. This one plans the time of
each request in advance, and counts latency from that time.
"""

from __future__ import annotations

import json
import random
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.lib.bare_client import PUBACK, PUBLISH, BareClient, puback, read_message
from edgeslm.protocol.codec import encode_request
from edgeslm.telemetry.health import quantiles

IN_FLIGHT: Final = 256
"""Requests that the broker hasn't acknowledged: its ``max_inflight_messages``, beyond which it hangs up."""
SETTLE_S: Final = 20.0
"""How long answers are waited for after the last request."""

LATE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and its time, in seconds from the start."""

    at_s: float
    topic: str


@dataclass(slots=True)
class Offered:
    """What became of the requests. ``latencies_s`` are from a request's time, not from when it was sent;
    ``node_s`` is what of it the node says was its own, queue and all; ``statuses`` are by status or error
    code; ``seconds`` is the time of the requests, ``until_s`` that of the last answer."""

    planned: int
    seconds: float
    until_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    node_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    lost: int = 0
    late_s: float = 0.0
    """The latest that a request was sent after its time."""
    prefills: Counter[float] = field(default_factory=Counter)
    """Answers by the node's service time, in ms: how many came from the fast ones."""

    def figures(self) -> dict[str, Any]:
        ms = quantiles(seconds * 1000 for seconds in self.latencies_s)
        way = sorted(a - b for a, b in zip(self.latencies_s, self.node_s, strict=True))
        return {
            "offered_per_s": round(self.planned / self.seconds, 1),
            "answered_per_s": round(len(self.latencies_s) / max(self.seconds, self.until_s), 1),
            "p50_ms": ms.get("p50"),
            "p99_ms": ms.get("p99"),
            "mean_ms": round(1000 * sum(self.latencies_s) / len(self.latencies_s), 1) if way else None,
            "way_p50_ms": round(way[len(way) // 2] * 1000, 2) if way else None,
            "late_percent": round(
                100 * sum(one > LATE_S for one in self.latencies_s) / max(1, self.planned), 2
            ),
            "lost": self.lost,
            "duplicates": self.duplicates,
            "errors": sum(count for status, count in self.statuses.items() if status != "ok"),
            "statuses": dict(self.statuses),
            "sent_late_ms": round(self.late_s * 1000, 1),
            "by_service_ms": {f"{ms:g}": count for ms, count in sorted(self.prefills.items())},
        }


def poisson(rate: float, seconds: float, topic: Callable[[int], str], chance: random.Random) -> list[Planned]:
    """Requests without memory of each other, ``rate`` a second in the mean; ``topic`` is asked by number."""
    planned: list[Planned] = []
    at_s = chance.expovariate(rate)
    while at_s < seconds:
        planned.append(Planned(at_s, topic(len(planned))))
        at_s += chance.expovariate(rate)
    return planned


class RateClient(BareClient):
    """The bare client, sending by the clock."""

    def offer(
        self,
        planned: Sequence[Planned],
        seconds: float,
        settle_s: float = SETTLE_S,
        meanwhile: Callable[[float], None] = lambda now_s: None,
    ) -> Offered:
        """Sends each at its time; returns when all are answered, or ``settle_s`` after the last.

        ``meanwhile`` is told the time, in seconds from the start, a few times a second.
        """
        found = Offered(len(planned), seconds)
        due: dict[bytes, float] = {}
        answered: set[bytes] = set()
        left = self._out_of(planned)
        wanted = next(left, None)
        unacknowledged = 0
        started = time.perf_counter()
        end_s = (planned[-1].at_s if planned else 0.0) + settle_s
        while wanted is not None or due:
            now_s = time.perf_counter() - started
            meanwhile(now_s)
            if now_s > end_s:
                break
            out = []
            while wanted is not None and wanted[0].at_s <= now_s and unacknowledged < IN_FLIGHT:
                out.append(self._fill_in(wanted[1], due, wanted[0].at_s))
                found.late_s = max(found.late_s, now_s - wanted[0].at_s)
                unacknowledged += 1
                wanted = next(left, None)
            if out:
                self._socket.sendall(b"".join(out))
            wait_s = 0.2
            if wanted is not None and unacknowledged < IN_FLIGHT:
                wait_s = min(wait_s, max(0.0, wanted[0].at_s - (time.perf_counter() - started)))
            if not select.select([self._socket], [], [], wait_s)[0]:
                continue
            back = []
            for kind, body in self._receive():
                if kind & 0xF0 == PUBACK:
                    unacknowledged -= 1
                elif kind & 0xF0 == PUBLISH:
                    message = read_message(kind, body)
                    back.append(puback(message.mid))
                    now_s = time.perf_counter() - started
                    if message.correlation in due:
                        self._count(found, message.payload, now_s, now_s - due.pop(message.correlation))
                        answered.add(message.correlation)
                    elif message.correlation in answered:
                        found.duplicates += 1
            if back:
                self._socket.sendall(b"".join(back))
        found.lost = len(due) + (0 if wanted is None else 1 + sum(1 for _ in left))
        return found

    def idle(self, seconds: float) -> None:
        """Waits, and drops what comes."""
        until = time.perf_counter() + seconds
        while (left_s := until - time.perf_counter()) > 0:
            if select.select([self._socket], [], [], left_s)[0]:
                self._receive()

    def _out_of(self, planned: Sequence[Planned]) -> Iterator[tuple[Planned, tuple[bytes, bytes, bytes]]]:
        for number, one in enumerate(planned):
            text = f"Message {self._number + number}: spindle 3 smells of burnt oil"
            yield one, self._template(one.topic, encode_request(text))

    @staticmethod
    def _count(found: Offered, payload: bytes, now_s: float, latency_s: float) -> None:
        result = json.loads(payload)
        error = result.get("error")
        found.statuses[error["code"] if error else result["status"]] += 1
        found.until_s = now_s
        if error is None:
            found.latencies_s.append(latency_s)
            found.node_s.append(result["timings_ms"]["total"] / 1000)
            found.prefills[result["timings_ms"]["prefill"]] += 1
