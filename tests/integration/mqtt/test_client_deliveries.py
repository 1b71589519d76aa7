"""The daemon's connection against a real broker: what comes in, and when it is acknowledged."""

from __future__ import annotations

import asyncio
import logging
import subprocess

import pytest

from edgeslm.mqtt.client import Subscription
from edgeslm.protocol.delivery import OutgoingMessage
from tests.support.brokers import Mosquitto
from tests.support.mqtt.nodes import (
    WAIT_S,
    Node,
    Wire,
    pubacks,
    run,
    say,
    two,
    until,
)


class TestDeliveries:
    def test_everything_about_a_message_arrives(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await app.bus.publish(
                    OutgoingMessage("node/req/t", b"hello", correlation=b"\x00\x01", expiry_s=60)
                )
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
                await asyncio.wait_for(node.bus.publish(OutgoingMessage("out/a", b"x")), WAIT_S)
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
                    await app.bus.publish(OutgoingMessage("other/req", payload))
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
                await app.bus.publish(OutgoingMessage("node/req/t", bytes(10_000_000), correlation=b"c"))
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
            async with two(broker.url) as (node, app):
                node.cannot_bear = b"bad"
                await say(app, b"bad", b"good")
                assert [(await node.take()).payload for _ in range(2)] == [b"bad", b"good"]
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
                await node.bus.publish(OutgoingMessage("line/1/log", b"x"))
                identifiers: set[int] = set()
                while identifiers != {7, 9}:
                    delivery = await node.take()
                    identifiers.update(delivery.identifiers)
                    node.bus.ack(delivery)
                await node.bus.publish(OutgoingMessage("node/req/t", b"x"))
                assert (await node.take()).identifiers == ()

        run(main)

    def test_a_retained_request_does_not_come_with_the_subscription(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with two(broker.url) as (node, app):
                await app.bus.publish(OutgoingMessage("node/req/t", b"retained", retain=True))
                assert (await node.take()).payload == b"retained"
                async with Node(broker.url, client_id="second") as second:
                    await until(lambda: second.ready)
                    await app.bus.publish(OutgoingMessage("node/req/t", b"fresh"))
                    assert (await second.take()).payload == b"fresh"
                wanted: list[str | Subscription] = [Subscription("node/req/+", retained=True)]
                async with Node(broker.url, wanted, client_id="third") as third:
                    delivery = await third.take()
                    assert (delivery.payload, delivery.retain) == (b"retained", True)

        run(main)
