"""Clients of ``upgrade.py``: repeated requests, and messages for windows."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as mqtt

from benchmarks.lib.chaos_senders import Ledger, Sender, make_client, start_client
from edgeslm.protocol.codec import parse_result

HALLS: Final = 3
WINDOW: Final = 10
END: Final = "shift/end"
ROUTES: Final[list[dict[str, Any]]] = [
    {
        "name": "hall",
        "from": "hall/+/log",
        "task": "digest",
        "input": "{{ payload.text }}",
        "to": "hall/{{ topic[1] }}/digest",
        "window": {"last": WINDOW},
    },
    {
        "name": "shift",
        "from": "shift/log",
        "task": "digest",
        "input": "{{ payload.text }}",
        "to": "shift/digest",
        "window": {"on": END},
    },
]
"""Both ways in which a window comes to be complete that don't ask a clock."""
FILLER: Final = "filler"


class Repeater(Sender):
    """A sender that can send again what was answered; each answer is told from the first by its bytes."""

    def __init__(self, port: int, name: str, ledger: Ledger, *, mqtt5: bool) -> None:
        self._first: dict[int, bytes] = {}
        self.repeated: Counter[int] = Counter()
        self.resent: Counter[int] = Counter()
        """Answers that were the first one again."""
        self.other: Counter[int] = Counter()
        """Answers that were not: the request was run again."""
        super().__init__(port, name, ledger, mqtt5=mqtt5)

    @property
    def answered(self) -> list[int]:
        """Requests that have an answer and were not repeated."""
        with self._lock:
            return [number for number in self._first if number not in self.repeated]

    def repeat(self, number: int) -> None:
        self.repeated[number] += 1
        self.repeats += 1
        self._publish(number, self._payload(number))

    @property
    def outstanding(self) -> int:
        """Repeats without an answer."""
        with self._lock:
            return sum(
                max(0, times - self.resent[number] - self.other[number])
                for number, times in self.repeated.items()
            )

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload)
        correlation = getattr(message.properties, "CorrelationData", None)
        name = correlation.decode() if correlation is not None else parse_result(payload).id
        if name.isdecimal():
            with self._lock:
                digest = hashlib.sha256(payload).digest()
                first = self._first.setdefault(number := int(name), digest)
                if self._ledger.entries[number].codes:
                    (self.resent if digest == first else self.other)[number] += 1
        super()._on_message(client, userdata, message)


class Notes:
    """Messages for windows, and the digests that tell of them."""

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._sent = 0
        self._names: dict[int, str] = {}
        self._early: set[int] = set()
        self.acknowledged: set[str] = set()
        self.told: defaultdict[str, set[str]] = defaultdict(set)
        """By message: the digests that tell of it. One that comes twice has the same name."""
        self.digests: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.dropped = 0
        self._client = make_client("upgrade-notes", True)
        self._client.on_connect = self._on_connect
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message
        start_client(self._client, port, True)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self) -> None:
        """One more message, to a window of each kind in turns."""
        name, self._sent = str(self._sent), self._sent + 1
        hall = self._sent % (HALLS + 1)
        self._publish(f"hall/{hall}/log" if hall else "shift/log", name)

    def end_shift(self) -> None:
        self._publish(END, f"{FILLER}-end")

    def fill(self) -> None:
        """Completes every window that has a message."""
        for hall in range(1, HALLS + 1):
            for number in range(WINDOW):
                self._publish(f"hall/{hall}/log", f"{FILLER}-{hall}-{time.monotonic_ns()}-{number}")
        self.end_shift()

    @property
    def lost(self) -> list[str]:
        """Acknowledged, and in no digest."""
        with self._changed:
            return sorted(self.acknowledged - {name for name, digests in self.told.items() if digests})

    @property
    def twice(self) -> list[str]:
        """In more than one digest."""
        with self._changed:
            return sorted(name for name, digests in self.told.items() if len(digests) > 1)

    @property
    def is_acknowledged(self) -> bool:
        return len(self.acknowledged) == self._sent

    def wait_for(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def _publish(self, topic: str, name: str) -> None:
        payload = json.dumps({"id": name, "text": f"spindle {self._sent % 5} is warm"})
        mid = self._client.publish(topic, payload, qos=1).mid  # paho holds a lock while it calls back
        with self._changed:
            if mid in self._early:
                self._early.discard(mid)
                self._note(name)
            else:
                self._names[mid] = name

    def _note(self, name: str) -> None:
        if not name.startswith(FILLER):
            self.acknowledged.add(name)
        self._changed.notify_all()

    # paho's callbacks, on its thread

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe([("hall/+/digest", 1), ("shift/digest", 1)])

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._changed:
            name = self._names.pop(mid, None)
            if name is None:
                self._early.add(mid)
            else:
                self._note(name)

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        result = parse_result(bytes(message.payload))
        with self._changed:
            self.digests[result.id] += 1
            self.statuses[result.error.code if result.error else result.status] += 1
            if result.result is not None and self.digests[result.id] == 1:
                self.dropped += result.result["dropped"] + result.result["others"]
                for point in result.result["points"]:
                    for name in point["ids"]:
                        if "#" in name:
                            # Twice in one digest, which names it so.
                            self.told[name.partition("#")[0]].add(f"{result.id} again")
                        elif not name.startswith(FILLER):
                            self.told[name].add(result.id)
            self._changed.notify_all()


TASKS: Final[dict[str, Any]] = {"digest": {"kind": "summarize", "model": "small"}}
