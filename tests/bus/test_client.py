"""The daemon's connection against a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgeslm.bus import client as client_module
from edgeslm.bus.client import BusClient, Delivery, Subscription
from edgeslm.bus.network import PATIENCE, Network
from edgeslm.bus.node_topics import BROKER_DROPPED
from edgeslm.errors import BrokerError
from edgeslm.observe.alerts import Alerts
from edgeslm.sections import Broker
from tests.brokers import Mosquitto

WAIT_S = 30.0
STATE = ("node/state", b"offline")
MakeBroker = Callable[..., Mosquitto]


class Node:
    """A bus client that keeps what it gets; subscribed to ``node/req/+`` on every connect."""

    def __init__(
        self, url: str, subscriptions: list[str | Subscription] | None = None, **changes: Any
    ) -> None:
        login = {name: changes.pop(name) for name in list(changes) if name in Broker.model_fields}
        self.inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        self.births = 0
        self._subscriptions = subscriptions or ["node/req/+"]
        values: dict[str, Any] = {
            "client_id": "node",
            "queue": 256,
            "packet_bytes": 65_536,
            "will": STATE,
            "on_delivery": self.inbox.put_nowait,
            "on_connect": self.birth,
            "first_pause_s": 0.05,
            "longest_pause_s": 0.5,
        }
        self.bus = BusClient(Broker(url=url, **login), **{**values, **changes})

    def birth(self) -> None:
        self.births += 1
        self.bus.subscribe(self._subscriptions)
        self.bus.publish("node/state", b"online", qos=1, retain=True)

    @property
    def ready(self) -> bool:
        """Whether the broker has the subscriptions: it has acknowledged what was published after them."""
        return self.bus.connected and self.births > 0 and not self.bus.waiting_bytes

    async def take(self) -> Delivery:
        return await asyncio.wait_for(self.inbox.get(), WAIT_S)

    async def __aenter__(self) -> Node:
        await self.bus.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.bus.stop()


class Wire:
    """A TCP relay in front of the broker that can lose packets and cut connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self.swallow_up = False
        self.swallow_down = False
        self.taken = 0
        self.flows = asyncio.Event()
        self.flows.set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, back]
        self.taken += 1
        up = self._pump(reader, back, lambda: self.swallow_up)
        down = self._pump(there, writer, lambda: self.swallow_down)
        with contextlib.suppress(OSError):
            await asyncio.gather(up, down)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: Callable[[], bool]
    ) -> None:
        try:
            while data := await reader.read(65_536):
                await self.flows.wait()
                if not swallow():
                    writer.write(data)
        finally:
            writer.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main(), 2 * WAIT_S)

    asyncio.run(bounded())


@contextlib.asynccontextmanager
async def two(url: str, **changes: Any) -> AsyncIterator[tuple[Node, Node]]:
    """A node, and somebody else who is subscribed to everything it says."""
    app = Node(url, ["node/state", "out/#"], client_id="app", will=("app/state", b"gone"))
    async with app, Node(url, **changes) as node:
        await until(lambda: app.ready and node.ready)
        yield node, app


async def say(app: Node, *payloads: bytes) -> None:
    for payload in payloads:
        await app.bus.publish("node/req/t", payload, qos=1)


class TestDeliveries:
    def test_everything_about_a_message_arrives(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await app.bus.publish("node/req/t", b"hello", qos=1, correlation=b"\x00\x01", expiry_s=60)
                delivery = await node.take()
                assert (delivery.topic, delivery.payload, delivery.size) == ("node/req/t", b"hello", 5)
                assert (delivery.qos, delivery.retain, delivery.dup) == (1, False, False)
                assert (delivery.correlation, delivery.response_topic) == (b"\x00\x01", None)
                assert delivery.expiry_s is not None
                assert 55 <= delivery.expiry_s <= 60
                node.bus.ack(delivery)

        run(main)

    def test_response_topic_of_a_plain_client(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Node(broker.url) as node:
                await until(lambda: node.ready)
                command = [
                    "mosquitto_pub",
                    "-V",
                    "5",
                    "-p",
                    str(broker.port),
                    "-t",
                    "node/req/t",
                    "-m",
                    "hi",
                    "-q",
                    "1",
                ]
                properties = [
                    "-D",
                    "publish",
                    "response-topic",
                    "a/b",
                    "-D",
                    "publish",
                    "correlation-data",
                    "c",
                ]
                await asyncio.to_thread(subprocess.run, [*command, *properties], check=True)
                delivery = await node.take()
                assert (delivery.response_topic, delivery.correlation) == ("a/b", b"c")

        run(main)

    def test_pubacks_leave_in_the_order_of_receipt(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await say(app, b"1", b"2", b"3", b"4")
                first, second, third, fourth = [await node.take() for _ in range(4)]
                node.bus.ack(third)
                node.bus.ack(second)
                await asyncio.sleep(0.2)
                assert pubacks(broker) == []
                node.bus.ack(first)
                await until(lambda: len(pubacks(broker)) == 3)
                node.bus.ack(fourth)
                await until(lambda: len(pubacks(broker)) == 4)
                assert pubacks(broker) == [first.mid, second.mid, third.mid, fourth.mid]

        run(main)

    def test_a_node_with_much_to_do_still_sends_and_keeps_the_order(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                many = 50
                await asyncio.gather(*(say(app, b"%d" % number) for number in range(many)))
                deliveries = [await node.take() for _ in range(many)]
                await asyncio.wait_for(node.bus.publish("out/a", b"x", qos=1), WAIT_S)
                for delivery in reversed(deliveries):
                    node.bus.ack(delivery)
                await until(lambda: len(pubacks(broker)) == many)
                assert pubacks(broker) == [delivery.mid for delivery in deliveries]

        run(main)

    def test_what_is_not_acknowledged_comes_again_on_the_next_connection(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with (
                Wire(broker.port) as wire,
                two(broker.url) as (_, app),
                Node(wire.url, ["other/req"], client_id="other") as node,
            ):
                await until(lambda: node.ready)
                for payload in (b"done", b"not done"):
                    await app.bus.publish("other/req", payload, qos=1)
                done, open_ = await node.take(), await node.take()
                node.bus.ack(done)
                await until(lambda: len(pubacks(broker, "other")) == 1)
                wire.cut()
                again = await node.take()
                assert (again.payload, again.dup) == (b"not done", True)
                assert again.generation == open_.generation + 1
                node.bus.ack(open_)  # of the old connection: does nothing
                node.bus.ack(again)
                await until(lambda: len(pubacks(broker, "other")) == 2)
                assert node.bus.resumed
                assert node.inbox.empty()

        run(main)

    def test_a_late_ack_does_not_acknowledge_somebody_else_s_message(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await say(app, b"before")
                before = await node.take()
                broker.stop()
                broker.start()  # without persistence: the session is lost
                await until(lambda: node.births == 2 and app.births == 2 and app.ready and node.ready)
                assert not node.bus.resumed
                await say(app, b"after")
                after = await node.take()
                assert after.mid == before.mid
                node.bus.ack(before)
                await asyncio.sleep(0.2)
                assert pubacks(broker) == []
                node.bus.ack(after)
                await until(lambda: len(pubacks(broker)) == 1)

        run(main)

    def test_requests_wait_while_the_node_is_stopped(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await say(app, b"unfinished")
                await node.take()
                await node.bus.stop()
                await say(app, b"sent meanwhile")
                async with Node(broker.url) as later:
                    assert [(await later.take()).payload for _ in range(2)] == [
                        b"unfinished",
                        b"sent meanwhile",
                    ]

        run(main)

    def test_the_queue_is_the_receive_maximum(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url, queue=2) as (node, app):
                await say(app, b"1", b"2", b"3")
                first, _ = await node.take(), await node.take()
                await asyncio.sleep(0.2)
                assert node.inbox.empty()
                node.bus.ack(first)
                assert (await node.take()).payload == b"3"

        run(main)

    def test_ten_megabytes_arrive_as_their_size(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await app.bus.publish("node/req/t", bytes(10_000_000), qos=1, correlation=b"c")
                delivery = await node.take()
                assert (delivery.payload, delivery.size, delivery.correlation) == (b"", 10_000_000, b"c")
                node.bus.ack(delivery)
                await say(app, b"small")
                assert (await node.take()).payload == b"small"

        run(main)

    def test_an_exception_in_the_callback_costs_one_message(
        self, broker: Mosquitto, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            seen: list[bytes] = []

            def on_delivery(delivery: Delivery) -> None:
                seen.append(delivery.payload)
                if delivery.payload == b"bad":
                    raise ValueError("a secret text")

            async with two(broker.url, on_delivery=on_delivery) as (node, app):
                await say(app, b"bad", b"good")
                await until(lambda: seen == [b"bad", b"good"])
                await until(lambda: len(pubacks(broker)) == 1)
                assert node.bus.network_alive

        with caplog.at_level(logging.INFO):
            run(main)
        assert "ValueError" in caplog.text
        assert "secret" not in caplog.text

    def test_a_message_tells_which_subscriptions_brought_it(self, broker: Mosquitto) -> None:
        async def main() -> None:
            wanted: list[str | Subscription] = [
                "node/req/+",
                Subscription("line/+/log", identifier=7),
                Subscription("line/#", identifier=9),
            ]
            async with Node(broker.url, wanted) as node:
                await until(lambda: node.ready)
                await node.bus.publish("line/1/log", b"x", qos=1)
                identifiers: set[int] = set()
                while identifiers != {7, 9}:
                    delivery = await node.take()
                    identifiers.update(delivery.identifiers)
                    node.bus.ack(delivery)
                await node.bus.publish("node/req/t", b"x", qos=1)
                assert (await node.take()).identifiers == ()

        run(main)

    def test_a_retained_request_does_not_come_with_the_subscription(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await app.bus.publish("node/req/t", b"retained", qos=1, retain=True)
                assert (await node.take()).payload == b"retained"
                async with Node(broker.url, client_id="second") as second:
                    await until(lambda: second.ready)
                    await app.bus.publish("node/req/t", b"fresh", qos=1)
                    assert (await second.take()).payload == b"fresh"
                wanted: list[str | Subscription] = [Subscription("node/req/+", retained=True)]
                async with Node(broker.url, wanted, client_id="third") as third:
                    delivery = await third.take()
                    assert (delivery.payload, delivery.retain) == (b"retained", True)

        run(main)


class TestPublishes:
    def test_done_when_the_broker_has_acknowledged(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Wire(broker.port) as wire, Node(wire.url) as node:
                await until(lambda: node.ready)
                wire.swallow_down = True
                done = node.bus.publish("out/a", b"x", qos=1)
                await until(lambda: "'out/a'" in broker.log)
                await asyncio.sleep(0.1)
                assert not done.done()
                wire.swallow_down = False
                wire.cut()
                await asyncio.wait_for(done, WAIT_S)
                assert broker.log.count("Received PUBLISH from node (d0, q1, r0") == 2

        run(main)

    def test_what_was_lost_on_the_way_is_sent_again_in_order(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with (
                Wire(broker.port) as wire,
                two(broker.url) as (_, app),
                Node(wire.url, client_id="other") as node,
            ):
                await until(lambda: node.ready)
                wire.swallow_up = True
                lost = [node.bus.publish("out/a", b"%d" % number, qos=1) for number in range(5)]
                await asyncio.sleep(0.1)
                wire.cut()
                wire.swallow_up = False
                lost += [node.bus.publish("out/a", b"%d" % number, qos=1) for number in range(5, 10)]
                await asyncio.wait_for(asyncio.gather(*lost), WAIT_S)
                payloads: list[bytes] = []
                while len(payloads) < 10:
                    delivery = await app.take()
                    payloads += [delivery.payload] if delivery.topic == "out/a" else []
                assert payloads == [b"%d" % number for number in range(10)]

        run(main)

    def test_it_waits_for_the_first_connection(self, make_broker: MakeBroker, tmp_path: Path) -> None:
        async def main() -> None:
            broker = Mosquitto(tmp_path)
            async with Node(broker.url) as node:
                done = node.bus.publish("out/a", b"early", qos=1)
                await asyncio.sleep(0.2)
                assert not node.bus.connected
                assert not done.done()
                try:
                    broker.start()
                    await asyncio.wait_for(done, WAIT_S)
                finally:
                    broker.stop()

        run(main)

    def test_the_broker_s_receive_maximum_is_kept(self, make_broker: MakeBroker) -> None:
        async def main() -> None:
            broker = make_broker("max_inflight_messages 3\n")
            async with Node(broker.url) as node:
                sent = [node.bus.publish("out/a", b"x", qos=1) for _ in range(200)]
                await asyncio.wait_for(asyncio.gather(*sent), WAIT_S)
                assert node.births == 1
            most = in_flight = 0
            for line in broker.log.splitlines():
                in_flight += ("Received PUBLISH from node" in line) - ("Sending PUBACK to node" in line)
                most = max(most, in_flight)
            assert 0 < most <= 3

        run(main)

    def test_a_refused_message_raises(self, make_broker: MakeBroker, tmp_path: Path) -> None:
        async def main() -> None:
            acl = tmp_path / "acl"
            acl.write_text("topic readwrite node/#\n")
            broker = make_broker(f"acl_file {acl}\n")
            async with Node(broker.url) as node:
                with pytest.raises(BrokerError, match=r"refuses the message to out/a: Not authorized"):
                    await asyncio.wait_for(node.bus.publish("out/a", b"x", qos=1), WAIT_S)
                await asyncio.wait_for(node.bus.publish("node/a", b"x", qos=1), WAIT_S)
                assert (node.births, node.bus.waiting_bytes) == (1, 0)

        run(main)

    @pytest.mark.parametrize(
        "topic", ["", "a/+", "a/#", "a/\0", "$SYS/a", "a/\x07", "a/\ufffe", "a" + "/b" * 300]
    )
    def test_an_impossible_topic_raises_and_harms_nobody(self, broker: Mosquitto, topic: str) -> None:
        async def main() -> None:
            async with Node(broker.url) as node:
                await until(lambda: node.ready)
                with pytest.raises(BrokerError, match="can't be published"):
                    await node.bus.publish(topic, b"x", qos=1)
                await asyncio.wait_for(node.bus.publish("out/a", b"x", qos=1), WAIT_S)
                assert node.births == 1

        run(main)

    def test_a_message_larger_than_the_broker_takes_raises(self, make_broker: MakeBroker) -> None:
        async def main() -> None:
            broker = make_broker("max_packet_size 2000\n")
            async with Node(broker.url) as node:
                early = node.bus.publish("out/a", bytes(3000), qos=1)
                with pytest.raises(BrokerError, match="broker takes 2000"):
                    await asyncio.wait_for(early, WAIT_S)
                with pytest.raises(BrokerError, match="broker takes 2000"):
                    await node.bus.publish("out/a", bytes(3000), qos=1)
                await asyncio.wait_for(node.bus.publish("out/a", bytes(1000), qos=1), WAIT_S)
                assert node.births == 1

        run(main)

    def test_a_message_for_which_the_broker_hangs_up_is_found_and_given_up(
        self, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "check_topic_name", lambda topic: None)

        async def main() -> None:
            async with Node(broker.url) as node:
                await until(lambda: node.ready)
                good = [node.bus.publish("out/a", b"x", qos=1) for _ in range(5)]
                bad = node.bus.publish("out/\x07", b"x", qos=1)
                good += [node.bus.publish("out/a", b"x", qos=1) for _ in range(5)]
                await asyncio.wait_for(asyncio.gather(*good), WAIT_S)
                with pytest.raises(BrokerError, match="Malformed packet"):
                    await bad
                births = node.births
                await asyncio.wait_for(node.bus.publish("out/a", b"x", qos=1), WAIT_S)
                assert node.births == births

        run(main)

    def test_a_full_outbox_raises(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with Node(Mosquitto(tmp_path).url, outbox_bytes=1000) as node:
                waiting = node.bus.publish("out/a", bytes(800), qos=1)
                with pytest.raises(BrokerError, match="limit"):
                    await node.bus.publish("out/a", bytes(800), qos=1)
            with pytest.raises(BrokerError, match="stopped"):
                await waiting

        run(main)

    def test_an_expired_message_is_not_sent(self, make_broker: MakeBroker, tmp_path: Path) -> None:
        async def main() -> None:
            broker = Mosquitto(tmp_path)
            async with Node(broker.url) as node:
                done = node.bus.publish("out/a", b"x", qos=1, expiry_s=0)
                try:
                    broker.start()
                    await asyncio.wait_for(done, WAIT_S)
                    assert "'out/a'" not in broker.log
                finally:
                    broker.stop()

        run(main)

    def test_qos_0_is_done_at_once_and_dropped_without_a_connection(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                sent = node.bus.publish("out/chunk", b"x", qos=0)
                assert sent.done()
                delivery = await app.take()
                while delivery.topic != "out/chunk":
                    delivery = await app.take()
                broker.stop()
                await until(lambda: not node.bus.connected)
                assert node.bus.publish("out/chunk", b"x", qos=0).done()
                assert node.bus.dropped == 1

        run(main)

    def test_qos_0_is_bounded_while_the_network_is_stuck_and_goes_on_after_it(
        self, broker: Mosquitto
    ) -> None:
        async def main() -> None:
            async with Wire(broker.port) as wire, Node(wire.url) as node:
                await until(lambda: node.ready)
                wire.flows.clear()
                for _ in range(400):
                    node.bus.publish("out/chunk", bytes(50_000), qos=0)
                    await asyncio.sleep(0)
                dropped = node.bus.dropped
                assert dropped > 100
                wire.cut()
                wire.flows.set()
                await until(lambda: node.births == 2)
                node.bus.publish("node/req/chunk", bytes(50_000), qos=0)
                assert (await node.take()).size == 50_000
                assert node.bus.dropped == dropped

        run(main)


class TestConnection:
    def test_birth_on_every_connect(self, make_broker: MakeBroker, tmp_path: Path) -> None:
        async def main() -> None:
            broker = make_broker(
                "persistence true\nautosave_on_changes true\nautosave_interval 1\n", folder=tmp_path
            )
            async with Node(broker.url) as node:
                for births in (1, 2, 3):
                    await until(partial(born, node, births))
                    assert retained(broker, "node/state") == b"online"
                    broker.kill()
                    await until(lambda: not node.bus.connected)
                    broker.start()

        run(main)

    def test_a_network_that_breaks_often_is_not_waited_for_longer_each_time(
        self, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paused: list[int] = []
        monkeypatch.setattr(Network, "_pause", lambda self, failures: paused.append(failures))

        async def main() -> None:
            async with Wire(broker.port) as wire, Node(wire.url, first_pause_s=0.05) as node:
                for births in range(1, 7):
                    await until(partial(born, node, births))
                    if births == 6:  # the first that lasts
                        await asyncio.sleep(2 * PATIENCE * 0.05)
                    wire.cut()
                    await until(partial(as_long_as, paused, births))

        run(main)
        assert paused[5] == 0

    def test_the_will_is_published_when_the_process_is_killed(self, broker: Mosquitto) -> None:
        program = (
            "import asyncio, sys\n"
            "from edgeslm.bus.client import BusClient\n"
            "from edgeslm.sections import Broker\n"
            "async def main():\n"
            "    bus = BusClient(Broker(url=sys.argv[1]), client_id='node', queue=9, packet_bytes=999,\n"
            "        will=('node/state', b'offline'), on_delivery=lambda d: None,\n"
            "        on_connect=lambda: bus.publish('node/state', b'alive', qos=1, retain=True))\n"
            "    await bus.start()\n"
            "    await asyncio.sleep(600)\n"
            "asyncio.run(main())\n"
        )

        async def main() -> None:
            app = Node(
                broker.url, [Subscription("node/state", retained=True)], client_id="app", will=("a/s", b"")
            )
            async with app:
                process = subprocess.Popen([sys.executable, "-c", program, broker.url])
                try:
                    while (await app.take()).payload != b"alive":
                        pass
                finally:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                assert (await app.take()).payload == b"offline"
            assert retained(broker, "node/state") == b"offline"

        run(main)

    def test_a_stop_says_goodbye_without_the_will(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Node(broker.url) as node:
                await until(lambda: node.ready)
                await node.bus.publish("node/state", b"stopped", qos=1, retain=True)
            assert retained(broker, "node/state") == b"stopped"
            assert not node.bus.connected
            assert not node.bus.network_alive

        run(main)

    def test_a_second_node_of_the_same_name_is_fatal_for_the_first(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Node(broker.url) as first:
                await until(lambda: first.ready)
                async with Node(broker.url) as second:
                    with pytest.raises(BrokerError, match="two nodes have the same name"):
                        await asyncio.wait_for(asyncio.shield(first.bus.failed), WAIT_S)
                    await until(lambda: not first.bus.network_alive)
                    await until(lambda: second.ready)
                    assert not second.bus.failed.done()

        run(main)

    def test_a_network_that_breaks_in_the_first_connect_does_not_cost_mqtt_5(self, broker: Mosquitto) -> None:
        """It would cost the Response Topics of all requests that wait in the session."""

        async def main() -> None:
            async with Wire(broker.port) as wire:
                wire.swallow_up = True
                async with Node(wire.url) as node:
                    await until(lambda: wire.taken)
                    wire.swallow_up = False
                    wire.cut()
                    await until(lambda: node.ready)
                    assert node.bus._welcome is not None and node.bus._welcome.mqtt5

        run(main)

    def test_a_broker_without_mqtt_5_is_fatal(self) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(bytes([0x20, 2, 0, 1]))  # CONNACK: unacceptable protocol version
            await writer.drain()
            writer.close()

        async def main() -> None:
            server = await asyncio.start_server(refuse, "127.0.0.1", 0)
            async with server, Node(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}") as node:
                with pytest.raises(BrokerError, match="speaks no MQTT 5"):
                    await asyncio.wait_for(asyncio.shield(node.bus.failed), WAIT_S)

        run(main)

    def test_user_and_password(
        self, make_broker: MakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            broker = make_broker(password_lines(tmp_path, "ann", "correct"), anonymous=False)
            password = tmp_path / "password"
            password.write_text("correct\n")
            async with Node(broker.url, username="ann", password_file=password) as node:
                await until(lambda: node.ready)
            password.write_text("wrong\n")
            async with Node(broker.url, username="ann", password_file=password) as node:
                await until(lambda: "refuses the user 'ann' or its password" in caplog.text)
                assert not node.bus.failed.done()
                assert "wrong" not in caplog.text

        run(main)

    def test_a_bad_password_file_is_said_at_start(self, tmp_path: Path) -> None:
        async def main() -> None:
            node = Node("mqtt://127.0.0.1", username="ann", password_file=tmp_path / "missing")
            with pytest.raises(BrokerError, match="password file"):
                await node.bus.start()
            await node.bus.stop()

        run(main)

    # paho leaves the socket of a failed handshake to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_tls_with_certificates_on_both_sides(
        self, make_broker: MakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            ca, other_ca = trustme.CA(), trustme.CA()
            server, own = ca.issue_cert("localhost"), ca.issue_cert("node@example.org", common_name="node")
            files = {
                name: tmp_path / f"{name}.pem" for name in ("ca", "other", "cert", "key", "own", "own_key")
            }
            ca.cert_pem.write_to_path(str(files["ca"]))
            other_ca.cert_pem.write_to_path(str(files["other"]))
            server.cert_chain_pems[0].write_to_path(str(files["cert"]))
            server.private_key_pem.write_to_path(str(files["key"]))
            own.cert_chain_pems[0].write_to_path(str(files["own"]))
            own.private_key_pem.write_to_path(str(files["own_key"]))
            broker = make_broker(
                f"cafile {files['ca']}\ncertfile {files['cert']}\nkeyfile {files['key']}\n"
                "require_certificate true\nuse_identity_as_username true\n",
                anonymous=False,
            )
            url = f"mqtts://localhost:{broker.port}"
            login: dict[str, Any] = {"cert_file": files["own"], "key_file": files["own_key"]}
            async with Node(url, ca_file=files["ca"], **login) as node:
                await until(lambda: node.ready)
                await node.bus.publish("node/req/t", b"x" * 50_000, qos=1)
                assert (await node.take()).size == 50_000
                assert "u'node'" in broker.log
            async with Node(url, ca_file=files["other"], **login):
                await until(lambda: "isn't trusted" in caplog.text)
            async with Node(url, ca_file=files["ca"]):
                await until(lambda: "cert_file and key_file" in caplog.text)

        run(main)
        gc.collect()

    def test_an_unreachable_broker_is_said_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with Node(Mosquitto(tmp_path).url, first_pause_s=0.01, longest_pause_s=0.01) as node:
                await asyncio.sleep(0.5)
                assert node.bus.network_alive
                assert node.bus.network_silent_s < WAIT_S

        run(main)
        assert [record.levelname for record in caplog.records if "Nothing listens" in record.message] == [
            "WARNING"
        ]

    def test_a_refused_subscription_is_said(self, caplog: pytest.LogCaptureFixture) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1000)
            writer.write(bytes([0x20, 3, 0, 0, 0]))  # CONNACK
            subscribe = await reader.read(1000)
            # SUBACK: QoS 1, and twice not authorized
            writer.write(bytes([0x90, 6, *subscribe[2:4], 0, 1, 0x87, 0x87]))
            await reader.read()
            writer.close()

        async def main() -> None:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            wanted: list[str | Subscription] = [
                "a/b",
                Subscription(BROKER_DROPPED, optional=True),
                "node/req/+",
            ]
            async with server, Node(url, wanted):
                await until(lambda: "refuses the subscription to node/req/+: Not authorized" in caplog.text)
            assert "subscription to a/b" not in caplog.text
            assert BROKER_DROPPED not in caplog.text, "it was optional"

        run(main)

    def test_what_the_broker_lacks_is_said(
        self, make_broker: MakeBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            small = make_broker("max_packet_size 4000\n")
            async with Node(small.url) as node:
                await until(lambda: node.ready)
                assert ["max_packet_size" in sentence for sentence in node.bus.shortcomings] == [True]
            forgetful = make_broker("retain_available false\n")
            async with Node(forgetful.url):
                await until(lambda: "retained messages" in caplog.text)

        run(main)
        assert "limits.packet_bytes is 65536" in caplog.text

    def test_the_broker_s_own_drops_are_seen_on_each_connection(self, make_broker: MakeBroker) -> None:
        """Those for a node that was away too: its session has the subscription, yet the count comes."""

        async def main() -> None:
            broker = make_broker("sys_interval 1\nmax_queued_messages 5\n")
            wanted: list[str | Subscription] = [
                "node/req/+",
                Subscription(BROKER_DROPPED, qos=0, every_time=True, optional=True),
            ]
            async with Node(broker.url, wanted) as node:
                count = await node.take()
                assert (count.topic, count.payload, count.retain) == (BROKER_DROPPED, b"0", True)
            async with Node(broker.url, ["other"], client_id="app", will=("app/state", b"")) as app:
                await until(lambda: app.ready)
                for number in range(20):
                    await app.bus.publish(f"node/req/{number}", b"", qos=1)
                await until(lambda: retained(broker, BROKER_DROPPED) != b"0")
            async with Node(broker.url, wanted) as node:
                alerts = Alerts()
                while not alerts.sentences():
                    alerts.see_broker_dropped((await node.take()).payload)
                assert "dropped 15 messages" in alerts.sentences()[0]

        run(main)

    def test_a_broker_that_shows_its_drops_to_nobody_is_no_matter(
        self, make_broker: MakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        rights = tmp_path / "rights"
        rights.write_text("topic readwrite node/#\n")

        async def main() -> None:
            broker = make_broker(f"acl_file {rights}\n")
            dropped = Subscription(BROKER_DROPPED, qos=0, every_time=True, optional=True)
            async with Node(broker.url, ["node/req/+", dropped]) as node:
                await until(lambda: node.ready)
                await node.bus.publish("node/req/t", b"works", qos=1)
                assert (await node.take()).payload == b"works"

        run(main)
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def as_long_as(values: list[int], length: int) -> bool:
    return len(values) >= length


def born(node: Node, births: int) -> bool:
    return node.births == births and node.ready


def pubacks(broker: Mosquitto, client_id: str = "node") -> list[int]:
    """Packet identifiers of the PUBACKs that the broker got, in order."""
    return [int(mid) for mid in re.findall(rf"Received PUBACK from {client_id} \(Mid: (\d+)", broker.log)]


def retained(broker: Mosquitto, topic: str) -> bytes:
    command = ["mosquitto_sub", "-p", str(broker.port), "-t", topic, "-C", "1", "-W", "10", "-N"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def password_lines(folder: Path, user: str, password: str) -> str:
    file = folder / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(file), user, password], check=True, capture_output=True
    )
    return f"password_file {file}\n"
