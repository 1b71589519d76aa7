"""The daemon's connection against a real broker: connects, losses, TLS and passwords."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgeslm.errors import BrokerError
from edgeslm.mqtt import connection
from edgeslm.mqtt.client import Subscription, Will
from edgeslm.mqtt.connection import PATIENCE, Network
from edgeslm.mqtt.diagnostics import SessionTakenOver
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.topics import BROKER_DROPPED
from edgeslm.telemetry.alerts import BrokerLosses
from tests.support.brokers import Mosquitto
from tests.support.mqtt.nodes import (
    WAIT_S,
    MakeBroker,
    Node,
    Wire,
    as_long_as,
    born,
    password_lines,
    retained,
    run,
    until,
)


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

    def test_a_connection_is_tried_again_when_it_may_be(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Wire(broker.port) as wire, Node(wire.url) as node:
                await until(lambda: node.ready)
                node.bus.may_connect.clear()
                wire.cut()
                await until(lambda: not node.bus.connected)
                await asyncio.sleep(0.5)
                assert wire.taken == 1
                node.bus.may_connect.set()
                await until(lambda: node.ready and node.births == 2)

        run(main)

    def test_who_is_taken_over_is_told_so(self, broker: Mosquitto) -> None:
        async def main() -> None:
            async with Node(broker.url) as first:
                await until(lambda: first.ready)
                async with Node(broker.url) as second:
                    await until(lambda: second.ready and first.bus.failed.done())
                    assert isinstance(first.bus.failed.exception(), SessionTakenOver)

        run(main)

    def test_a_network_that_breaks_often_is_not_waited_for_longer_each_time(
        self, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paused: list[int] = []
        monkeypatch.setattr(Network, "_pause", lambda self, failures: paused.append(failures))

        async def main() -> None:
            async with Wire(broker.port) as wire, Node(wire.url) as node:
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
            "from edgeslm.config.sections import Broker\n"
            "from edgeslm.mqtt.client import BusClient, BusListener, Will\n"
            "from edgeslm.protocol.delivery import OutgoingMessage\n"
            "class Node(BusListener):\n"
            "    def __init__(self):\n"
            "        self.bus = BusClient(Broker(url=sys.argv[1]), self, client_id='node', queue=9,\n"
            "            packet_bytes=999, will=Will('node/state', b'offline'))\n"
            "    def delivered(self, delivery): pass\n"
            "    def connected(self):\n"
            "        self.bus.publish(OutgoingMessage('node/state', b'alive', retain=True))\n"
            "async def main():\n"
            "    await Node().bus.start()\n"
            "    await asyncio.sleep(600)\n"
            "asyncio.run(main())\n"
        )

        async def main() -> None:
            app = Node(
                broker.url,
                [Subscription("node/state", retained=True)],
                client_id="app",
                will=Will("a/s", b""),
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
                await node.bus.publish(OutgoingMessage("node/state", b"stopped", retain=True))
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
                    assert node.bus.speaks_mqtt5

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
                await node.bus.publish(OutgoingMessage("node/req/t", b"x" * 50_000))
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
            async with Node(Mosquitto(tmp_path).url, pauses_s=(0.01, 0.01)) as node:
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
            async with server, Node(url, wanted) as node:
                await until(lambda: "refuses the subscription to node/req/+: Not authorized" in caplog.text)
                refused = [one for one in node.bus.shortcomings if "refuses" in one]
                assert refused == [
                    "The broker refuses the subscription to node/req/+ (Not authorized); allow it there."
                ]
            assert "subscription to a/b" not in caplog.text
            assert BROKER_DROPPED not in caplog.text, "it was optional"

        run(main)

    def test_a_broker_without_shared_subscriptions_is_told(
        self, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """RabbitMQ says in its CONNACK that it has none, and accepts them all the same."""
        read_welcome = connection.read_welcome

        def without(*values: Any, **named: Any) -> Any:
            return dataclasses.replace(read_welcome(*values, **named), shared_available=False)

        monkeypatch.setattr(connection, "read_welcome", without)

        async def main() -> None:
            async with Node(broker.url, ["a/b", "$share/pool/req/+"]) as node:
                await until(lambda: bool(node.bus.shortcomings))
                assert node.bus.shortcomings == [
                    "The broker refuses the subscription to $share/pool/req/+ (it has no shared "
                    "subscriptions); allow it there."
                ]

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
            async with Node(broker.url, ["other"], client_id="app", will=Will("app/state", b"")) as app:
                await until(lambda: app.ready)
                for number in range(20):
                    await app.bus.publish(OutgoingMessage(f"node/req/{number}", b""))
                await until(lambda: retained(broker, BROKER_DROPPED) != b"0")
            async with Node(broker.url, wanted) as node:
                losses = BrokerLosses()
                while not losses.alerts:
                    losses.see_broker_dropped((await node.take()).payload)
                assert "dropped 15 messages" in losses.alerts[0]

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
                await node.bus.publish(OutgoingMessage("node/req/t", b"works"))
                assert (await node.take()).payload == b"works"

        run(main)
        assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
