"""Does each of 1,000 mixed requests, one in ten invalid, get exactly one result with the right status?

    python benchmarks/robustness/mixed.py --starter .edgeslm/starter [--requests 1000] [--bad 100]

Starts a broker and the daemon. Two apps, one of MQTT 5 (Response Topic, Correlation Data) and one of MQTT
3.1.1 (JSON ``id`` and ``reply_to``), keep requests of all kinds in flight; a third app listens on the default
reply topic. Prints a table, then one JSON line; status 1 unless each request got one result with the expected
status and code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from benchmarks.lib.mixture import IN_FLIGHT, NODE, Plan, configuration, make_plans
from benchmarks.lib.reporting import print_card
from edgeslm.cli.demo.broker import start_broker
from edgeslm.cli.demo.material import NOTES_TAUGHT
from edgeslm.cli.demo.teaching import teach
from edgeslm.messages import Result
from edgeslm.mqtt.paho_client import send_small_packets_at_once
from edgeslm.protocol.codec import Topics, parse_chunk, parse_result, parse_state
from edgeslm.telemetry.health import quantiles

TOPICS = Topics(NODE)
WAIT_S = 120.0
QUIET_S = 2.0
"""How long to listen for results that come twice, after the last that was expected."""


# Who sends it


class App:
    """A client of one protocol version. What arrives goes to ``arrived`` with the time of its arrival."""

    def __init__(
        self, port: int, name: str, mqtt5: bool, arrived: queue.SimpleQueue[Any], *filters: str
    ) -> None:
        self.mqtt5 = mqtt5
        self.reply_to = f"{TOPICS.base}/res/{name}/app"
        self._arrived = arrived
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5 if mqtt5 else mqtt.MQTTv311
        )
        self._client.max_inflight_messages_set(1000)
        self._client.on_socket_open = send_small_packets_at_once
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        wanted = filters or (self.reply_to, TOPICS.stream(self.reply_to))
        self._client.subscribe([(one, 1) for one in wanted])
        self._client.loop_start()
        if not self._subscribed.wait(WAIT_S):
            raise SystemExit("the broker did not confirm a subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, number: int, plan: Plan) -> None:
        plan.sent_at = time.perf_counter()
        topic, name = TOPICS.request(plan.task), str(number)
        wildcard = plan.reply_to is not None and "+" in plan.reply_to
        if not self.mqtt5:
            payload = plan.raw
            if payload is None:
                fields = {**plan.fields, "id": name, "reply_to": plan.reply_to or self.reply_to}
                payload = json.dumps(fields).encode()
            self._client.publish(topic, payload, qos=1)
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = name.encode()
        fields = dict(plan.fields)
        if wildcard:  # a broker takes none as Response Topic; the JSON field is the way in
            fields["reply_to"] = plan.reply_to
        else:
            properties.ResponseTopic = plan.reply_to or self.reply_to
        payload = plan.raw if plan.raw is not None else json.dumps(fields).encode()
        self._client.publish(topic, payload, qos=1, properties=properties)

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        self._arrived.put((message.topic, bytes(message.payload), correlation, time.perf_counter()))


class Run:
    """All plans, kept in flight and matched with what comes back."""

    def __init__(
        self, plans: Sequence[Plan], senders: Sequence[App], arrived: queue.SimpleQueue[Any]
    ) -> None:
        self._plans = plans
        self._senders = senders
        self._arrived = arrived
        self._nameless: list[tuple[int, Plan]] = []
        self.strays: list[Result] = []

    def go(self) -> float:
        """Seconds from the first request to the last result."""
        started = last = time.perf_counter()
        sent = done = 0
        with contextlib.suppress(TimeoutError):  # what is missing by then shows in the figures
            while done < len(self._plans):
                while sent < len(self._plans) and sent - done < IN_FLIGHT:
                    self._send(sent)
                    sent += 1
                done += self._take(WAIT_S)
                last = time.perf_counter()
            while True:
                self._take(QUIET_S)
        return last - started

    def _send(self, number: int) -> None:
        sender, plan = self._senders[number % len(self._senders)], self._plans[number]
        if plan.anonymous and not sender.mqtt5:
            self._nameless.append((number, plan))
        sender.send(number, plan)

    def _take(self, wait_s: float) -> int:
        """The next message; 1 if it was the first result of a request."""
        try:
            topic, payload, correlation, at = self._arrived.get(timeout=wait_s)
        except queue.Empty:
            raise TimeoutError(f"nothing came for {wait_s:g} s") from None
        if topic.endswith("/stream"):
            chunk = parse_chunk(payload)
            self._plans[int(chunk.id)].pieces.append(chunk.text)
            return 0
        result = parse_result(payload)
        plan = self._plan_of(result, correlation)
        if plan is None:
            self.strays.append(result)
            return 0
        plan.results.append(result)
        plan.round_trip_ms = (at - plan.sent_at) * 1000
        return int(len(plan.results) == 1)

    def _plan_of(self, result: Result, correlation: bytes | None) -> Plan | None:
        name = correlation.decode() if correlation is not None else result.id
        if name.isdecimal() and int(name) < len(self._plans):
            return self._plans[int(name)]
        # Of a sender without correlation whose id could not be read: its task and code must tell.
        code = result.error.code if result.error else None
        for index, (_, plan) in enumerate(self._nameless):
            if (plan.task, plan.code) == (result.task, code):
                del self._nameless[index]
                return plan
        return None


# Broker, daemon, figures


@contextmanager
def daemon(file: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """``edgeslm run``, online; stopped with SIGTERM, which must end it with status 0."""
    process = subprocess.Popen([sys.executable, "-m", "edgeslm", "run", str(file)], stdin=subprocess.DEVNULL)
    states: queue.SimpleQueue[Any] = queue.SimpleQueue()
    watcher = App(port, "watcher", True, states, TOPICS.state)
    try:
        while True:
            try:
                if parse_state(states.get(timeout=0.2)[1]).state == "online":
                    break
            except queue.Empty:
                if process.poll() is not None:
                    raise SystemExit(f"the daemon ended with status {process.returncode}") from None
        yield process
    finally:
        watcher.close()
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(60)) != 0:
            raise SystemExit(f"the daemon ended with status {status}")


def rows_of(plans: Sequence[Plan]) -> dict[str, dict[str, Any]]:
    """By kind: how many, how many right, and milliseconds from publish to result."""
    rows: dict[str, dict[str, Any]] = {}
    for kind in sorted({plan.kind for plan in plans}, key=lambda kind: (kind.startswith("bad"), kind)):
        group = [plan for plan in plans if plan.kind == kind]
        rows[kind] = {
            "requests": len(group),
            "results": sum(len(plan.results) for plan in group),
            "right": sum(plan.is_right for plan in group),
            **quantiles(plan.round_trip_ms for plan in group),
        }
    return rows


def summary(plans: Sequence[Plan], run: Run, seconds: float) -> dict[str, Any]:
    said = Counter(
        result.error.code if result.error else result.status for plan in plans for result in plan.results
    )
    streamed = [plan for plan in plans if plan.kind == "generate, streamed" and plan.results]
    return {
        "requests": len(plans),
        "bad": sum(plan.code is not None for plan in plans),
        "results": sum(len(plan.results) for plan in plans) + len(run.strays),
        "right": sum(plan.is_right for plan in plans),
        "twice": sum(len(plan.results) > 1 for plan in plans),
        "missing": sum(not plan.results for plan in plans),
        "strays": len(run.strays),
        "statuses": dict(said.most_common()),
        "streams": len(streamed),
        "whole_streams": sum(
            "".join(plan.pieces) == (plan.results[0].result or {}).get("text") for plan in streamed
        ),
        "seconds": round(seconds, 1),
        "requests_per_s": round(len(plans) / seconds, 1),
    }


def print_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'kind':<30}{'requests':>9}{'results':>9}{'right':>7}{'p50 ms':>9}{'p95 ms':>9}")
    for kind, row in rows.items():
        counts = f"{kind:<30}{row['requests']:>9}{row['results']:>9}{row['right']:>7}"
        print(f"{counts}{row['p50']:>9}{row['p95']:>9}")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[Plan]]:
    starter = arguments.starter.resolve()
    plans = make_plans(arguments.requests, arguments.bad, starter / "data")
    labels = {"normal": "", "warning": "", "critical": ""}
    lesson = teach(folder, "notes", labels, NOTES_TAUGHT, starter / "minilm-l6-int8")
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with start_broker(folder) as broker:
        if not broker.keeps_messages:
            raise SystemExit("mosquitto is missing: apt-get install mosquitto")
        file = folder / "config.yaml"
        file.write_text(yaml.safe_dump(configuration(broker.url, starter, lesson.folder, folder)))
        with daemon(file, broker.port) as process:
            apps = [
                App(broker.port, "five", True, arrived),
                App(broker.port, "three", False, arrived),
                App(broker.port, "default", True, arrived, TOPICS.result("+")),
            ]
            run = Run(plans, apps[:2], arrived)
            seconds = run.go()
            memory = resident_mb(process.pid)
            for app in apps:
                app.close()
    return {**summary(plans, run, seconds), "parent_resident_mb": memory}, plans


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starter", type=Path, required=True, help="folder that edgeslm-export starter made")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--bad", type=int, default=100, help="how many of them are bad")
    arguments = parser.parse_args(argv)
    card = print_card(**{"onnxruntime-genai": version("onnxruntime-genai")})
    with tempfile.TemporaryDirectory(prefix="edgeslm-mixed-") as folder:
        figures, plans = measure(arguments, Path(folder))
    print_table(rows_of(plans))
    for plan in plans:
        if not plan.is_right:
            got = [(result.status, result.error) for result in plan.results]
            print(
                f"wrong: {plan.kind} on {plan.task}, wanted {plan.code or 'ok'}, got {got}", file=sys.stderr
            )
    print(f"\n{figures['right']} of {figures['requests']} right, {figures['results']} results")
    print(json.dumps({**card, **figures}))
    return int(not figures["right"] == figures["requests"] == figures["results"])


if __name__ == "__main__":
    sys.exit(main())
