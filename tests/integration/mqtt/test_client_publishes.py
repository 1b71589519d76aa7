"""The daemon's connection against a real broker: what goes out, and when it counts as gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgeslm.errors import BrokerError
from edgeslm.mqtt import client as client_module
from edgeslm.mqtt.client import OUTBOX_BYTES
from edgeslm.protocol.delivery import OutgoingMessage
from tests.support.brokers import Mosquitto
from tests.support.mqtt.nodes import (
    WAIT_S,
    MakeBroker,
    Node,
    Wire,
    run,
    two,
    until,
)


class TestPublishes:
    def test_done_when_the_broker_has_acknowledged(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Wire(broker.port) as wire, Node(wire.url) as node:
                await until(lambda: node.ready)
                wire.swallow_down = True
                done = node.bus.publish(OutgoingMessage("out/a", b"x"))
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
                lost = [node.bus.publish(OutgoingMessage("out/a", b"%d" % number)) for number in range(5)]
                await asyncio.sleep(0.1)
                wire.cut()
                wire.swallow_up = False
                lost += [
                    node.bus.publish(OutgoingMessage("out/a", b"%d" % number)) for number in range(5, 10)
                ]
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
                done = node.bus.publish(OutgoingMessage("out/a", b"early"))
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
                sent = [node.bus.publish(OutgoingMessage("out/a", b"x")) for _ in range(200)]
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
                    await asyncio.wait_for(node.bus.publish(OutgoingMessage("out/a", b"x")), WAIT_S)
                await asyncio.wait_for(node.bus.publish(OutgoingMessage("node/a", b"x")), WAIT_S)
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
                    await node.bus.publish(OutgoingMessage(topic, b"x"))
                await asyncio.wait_for(node.bus.publish(OutgoingMessage("out/a", b"x")), WAIT_S)
                assert node.births == 1

        run(main)

    def test_a_message_larger_than_the_broker_takes_raises(self, make_broker: MakeBroker) -> None:
        async def main() -> None:
            broker = make_broker("max_packet_size 2000\n")
            async with Node(broker.url) as node:
                early = node.bus.publish(OutgoingMessage("out/a", bytes(3000)))
                with pytest.raises(BrokerError, match="broker takes 2000"):
                    await asyncio.wait_for(early, WAIT_S)
                with pytest.raises(BrokerError, match="broker takes 2000"):
                    await node.bus.publish(OutgoingMessage("out/a", bytes(3000)))
                await asyncio.wait_for(node.bus.publish(OutgoingMessage("out/a", bytes(1000))), WAIT_S)
                assert node.births == 1

        run(main)

    def test_a_message_for_which_the_broker_hangs_up_is_found_and_given_up(
        self, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_module, "check_topic_name", lambda topic: None)

        async def main() -> None:
            async with Node(broker.url) as node:
                await until(lambda: node.ready)
                good = [node.bus.publish(OutgoingMessage("out/a", b"x")) for _ in range(5)]
                bad = node.bus.publish(OutgoingMessage("out/\x07", b"x"))
                good += [node.bus.publish(OutgoingMessage("out/a", b"x")) for _ in range(5)]
                await asyncio.wait_for(asyncio.gather(*good), WAIT_S)
                with pytest.raises(BrokerError, match="Malformed packet"):
                    await bad
                births = node.births
                await asyncio.wait_for(node.bus.publish(OutgoingMessage("out/a", b"x")), WAIT_S)
                assert node.births == births

        run(main)

    def test_a_full_outbox_raises(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with Node(Mosquitto(tmp_path).url) as node:
                large = bytes(OUTBOX_BYTES // 2)
                waiting = node.bus.publish(OutgoingMessage("out/a", large))
                with pytest.raises(BrokerError, match="limit"):
                    await node.bus.publish(OutgoingMessage("out/a", large))
            with pytest.raises(BrokerError, match="stopped"):
                await waiting

        run(main)

    def test_an_expired_message_is_not_sent(self, make_broker: MakeBroker, tmp_path: Path) -> None:
        async def main() -> None:
            broker = Mosquitto(tmp_path)
            async with Node(broker.url) as node:
                done = node.bus.publish(OutgoingMessage("out/a", b"x", expiry_s=0))
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
                sent = node.bus.publish(OutgoingMessage("out/chunk", b"x", qos=0))
                assert sent.done()
                delivery = await app.take()
                while delivery.topic != "out/chunk":
                    delivery = await app.take()
                broker.stop()
                await until(lambda: not node.bus.connected)
                assert node.bus.publish(OutgoingMessage("out/chunk", b"x", qos=0)).done()
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
                    node.bus.publish(OutgoingMessage("out/chunk", bytes(50_000), qos=0))
                    await asyncio.sleep(0)
                dropped = node.bus.dropped
                assert dropped > 100
                wire.cut()
                wire.flows.set()
                await until(lambda: node.births == 2)
                node.bus.publish(OutgoingMessage("node/req/chunk", bytes(50_000), qos=0))
                assert (await node.take()).size == 50_000
                assert node.bus.dropped == dropped

        run(main)
