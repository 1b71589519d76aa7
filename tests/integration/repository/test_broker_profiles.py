"""The shipped broker configurations, and what is documented of a broker that is killed or loses power."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgeslm.config.loader import parse_config
from edgeslm.config.sections import Limits
from edgeslm.mqtt.connection import SESSION_EXPIRY_S
from edgeslm.mqtt.probe import probe_broker
from tests.support.apps import WAIT_S, App
from tests.support.benchmarks.scripts import load_scripts
from tests.support.brokers import CONFIGURATIONS, Mosquitto, shipped_lines
from tests.support.paths import ROOT
from tests.support.unsynced import CannotTrace, Disk, watching, write_files

MakeBroker = Callable[..., Mosquitto]
TOPIC = "edgeslm/v1/hall/req/triage"
PROFILES = ("strict", "balanced")


def settings_of(profile: str) -> list[str]:
    lines = (CONFIGURATIONS / f"{profile}.conf").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class Node:
    """The persistent session of a node; it acknowledges nothing unless ``acknowledges``."""

    def __init__(self, port: int, *, acknowledges: bool = False) -> None:
        self.got: list[str] = []
        self._changed = threading.Condition()
        self._answers = 0
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="hall", protocol=mqtt.MQTTv5, manual_ack=not acknowledges
        )
        self._client.on_message = lambda client, userdata, message: self._note(message.payload.decode())
        self._client.on_connect = self._client.on_subscribe = lambda *_: self._note(None)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = 3600
        properties.ReceiveMaximum = 256
        self._client.connect("127.0.0.1", port, clean_start=False, properties=properties)
        self._client.loop_start()
        self._wait(lambda: self._answers == 1)

    def subscribe(self) -> None:
        answers = self._answers
        self._client.subscribe(TOPIC, 1)
        self._wait(lambda: self._answers > answers)

    def take_until(self, text: str) -> list[str]:
        """What has come up to ``text``, which is waited for."""
        self._wait(lambda: text in self.got)
        return self.got[: self.got.index(text)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _note(self, text: str | None) -> None:
        with self._changed:
            if text is None:
                self._answers += 1
            else:
                self.got.append(text)
            self._changed.notify_all()

    def _wait(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, WAIT_S)


@contextmanager
def node_at(broker: Mosquitto, *, acknowledges: bool = False) -> Iterator[Node]:
    node = Node(broker.port, acknowledges=acknowledges)
    yield node
    node.close()


@pytest.fixture
def start(make_broker: MakeBroker, tmp_path: Path) -> Callable[[str], Mosquitto]:
    """A broker with a shipped profile that knows and has saved the session of a node that is away."""

    def started(profile: str) -> Mosquitto:
        folder = tmp_path / "broker"
        folder.mkdir()
        broker = make_broker(shipped_lines(profile, folder), folder=folder)
        with node_at(broker) as node:
            node.subscribe()
        broker.stop()
        broker.start()
        return broker

    return started


def publish(broker: Mosquitto, *texts: str) -> None:
    """Returns when the broker has acknowledged each, and done what it does after an acknowledgement."""
    with App(broker.port) as app:
        for text in texts:
            app.publish(TOPIC, text)
    with App(broker.port):
        pass


def restart(broker: Mosquitto) -> None:
    broker.kill()
    broker.start()


def what_is_left(broker: Mosquitto) -> list[str]:
    """What the broker delivers to a node that connects."""
    publish(broker, "the last one")
    with node_at(broker, acknowledges=True) as node:
        return node.take_until("the last one")


class TestFiles:
    def test_the_profiles_differ_in_when_they_save_and_in_nothing_else(self) -> None:
        strict, balanced = (settings_of(profile) for profile in PROFILES)
        assert set(strict) ^ set(balanced) == {"autosave_on_changes true", "autosave_on_changes false"}

    def test_the_one_for_2_1_differs_in_where_it_saves(self) -> None:
        names = [{line.split()[0] for line in settings_of(profile)} for profile in ("strict", "sqlite-2.1")]
        assert names[0] - names[1] == {"persistence", "autosave_on_changes", "autosave_interval"}
        assert names[1] - names[0] == {
            "global_plugin",
            "persistence_location",
            "plugin_opt_flush_period",
            "plugin_opt_sync",
        }
        same = names[0] & names[1]
        ours, theirs = (
            [line for line in settings_of(profile) if line.split()[0] in same]
            for profile in ("strict", "sqlite-2.1")
        )
        assert ours == theirs

    @pytest.mark.parametrize("profile", PROFILES)
    def test_each_line_has_its_reason(self, profile: str) -> None:
        blocks = (CONFIGURATIONS / f"{profile}.conf").read_text(encoding="utf-8").split("\n\n")
        bare = [block for block in blocks if not block.startswith("#")]
        assert [block.split()[0] for block in bare] == ["listener"]

    @pytest.mark.parametrize("profile", PROFILES)
    def test_included_from_a_file_like_debian_s_it_is_a_broker_for_a_node(
        self, make_broker: MakeBroker, tmp_path: Path, profile: str
    ) -> None:
        passwords = tmp_path / "edgeslm.passwd"
        passwords.write_text("press-hall-4:\n")
        settings = (CONFIGURATIONS / f"{profile}.conf").read_text(encoding="utf-8")
        settings = settings.replace("listener 1883\n", "").replace("allow_anonymous false\n", "")
        settings = settings.replace("/etc/mosquitto/edgeslm.passwd", str(passwords))
        folder = tmp_path / "conf.d"
        folder.mkdir()
        (folder / "edgeslm.conf").write_text(settings)
        broker = make_broker(f"persistence true\npersistence_location {tmp_path}/\ninclude_dir {folder}\n")
        probe = probe_broker(
            parse_config(
                "node: press-hall-4\n"
                f"broker: {{url: '{broker.url}'}}\n"
                "models: {small: {bundle: /srv/small}}\n"
                "tasks: {triage: {kind: classify, model: small, labels: [a, b]}}\n"
            )
        )
        assert probe.problems == []


def test_the_node_says_how_many_requests_it_takes_at_a_time(make_broker: MakeBroker) -> None:
    """Not max_inflight_messages, which is for what clients send, and for MQTT 3.1.1."""
    broker = make_broker("max_inflight_messages 5\n")
    with node_at(broker) as node:
        node.subscribe()
        numbers = [str(number) for number in range(20)]
        publish(broker, *numbers)
        assert node.take_until("19") == numbers[:-1]


class TestKill:
    def test_strict_keeps_what_waits_for_a_node_that_is_away(self, start: Callable[[str], Mosquitto]) -> None:
        broker = start("strict")
        publish(broker, "one", "two")
        restart(broker)
        assert what_is_left(broker) == ["one", "two"]

    def test_strict_forgets_what_a_connected_node_has_in_hand(
        self, start: Callable[[str], Mosquitto]
    ) -> None:
        broker = start("strict")
        with node_at(broker) as node:
            publish(broker, "one", "two")
            assert node.take_until("two") == ["one"]
            restart(broker)
        assert what_is_left(broker) == []  # but the node had it

    def test_strict_keeps_that_too_once_anything_else_changes(
        self, start: Callable[[str], Mosquitto]
    ) -> None:
        broker = start("strict")
        with node_at(broker) as node:
            publish(broker, "one")
            node.take_until("one")
            node.subscribe()
            publish(broker)  # so that the save is done
            restart(broker)
        assert what_is_left(broker) == ["one"]

    def test_balanced_keeps_everything_once_it_has_saved(self, start: Callable[[str], Mosquitto]) -> None:
        broker = start("balanced")
        with node_at(broker) as node, App(broker.port) as app:
            publish(broker, "one")
            node.take_until("one")
            saves = broker.log.count("Saving in-memory database")
            # The first may have begun before the message came.
            app.wait_until(lambda: broker.log.count("Saving in-memory database") >= saves + 2, "saves")
            publish(broker)
            restart(broker)
        assert what_is_left(broker) == ["one"]


def test_after_a_power_cut_the_last_save_is_gone(
    start: Callable[[str], Mosquitto], make_broker: MakeBroker, tmp_path: Path
) -> None:
    """mosquitto syncs the new file and not its rename, which ext4 and XFS write with the next sync."""
    broker = start("strict")
    disk = Disk(tmp_path / "broker", ordered=True)
    try:
        with watching(broker.pid, tmp_path) as calls:
            publish(broker, "one", "two", "three")
    except CannotTrace as error:
        pytest.skip(str(error))
    broker.kill()
    for call in calls:
        disk.apply(call)
    for cut, left in ((disk.after_kill(), ["one", "two", "three"]), (disk.after_cut(), ["one", "two"])):
        write_files(cut, tmp_path / "broker", tmp_path / "after")
        after = make_broker(shipped_lines("strict", tmp_path / "after"), folder=tmp_path / "after")
        assert what_is_left(after) == left
        after.stop()


@pytest.fixture(scope="module")
def kills() -> ModuleType:
    return load_scripts("broker_kills")["broker_kills"]


def test_the_benchmark_of_kills_counts_what_is_lost(kills: ModuleType) -> None:
    found = kills.measure("strict", ["away", "thinking"], 1, random.Random(1))
    away, thinking = found["away"].figures(), found["thinking"].figures()
    assert away["accepted"] and thinking["accepted"]
    assert away["lost"] == away["forgotten"] <= 1  # the message that it was at work on
    assert thinking["forgotten"] == thinking["accepted"]
    assert thinking["lost"] == 0


class TestOtherBrokers:
    """firmware-config/rabbitmq and firmware-config/nats; ``brokers.py`` runs them where the brokers are."""

    RABBITMQ = (ROOT / "firmware-config/rabbitmq/rabbitmq.conf").read_text("utf-8")
    NATS = (ROOT / "firmware-config/nats/edgeslm.conf").read_text("utf-8")

    def test_rabbitmq_has_what_a_node_asks_for(self) -> None:
        lines = [line for line in self.RABBITMQ.splitlines() if line and not line.startswith("#")]
        settings = dict(line.split(" = ") for line in lines)
        assert settings["mqtt.durable_queue_type"] == "quorum"
        assert int(settings["mqtt.max_session_expiry_interval_seconds"]) == SESSION_EXPIRY_S
        assert int(settings["mqtt.prefetch"]) == Limits().queue
        assert int(settings["mqtt.max_packet_size_authenticated"]) > Limits().packet_bytes
        assert settings["anonymous_login_user"] == "none"

    def test_nats_has_what_a_node_asks_for(self) -> None:
        assert f"max_ack_pending: {Limits().queue}" in self.NATS
        (size,) = re.findall(r"^max_payload: (\d+)$", self.NATS, re.MULTILINE)
        assert int(size) > Limits().packet_bytes
        assert "sync_interval: always" in self.NATS

    @pytest.mark.parametrize("settings", [RABBITMQ, NATS], ids=["rabbitmq", "nats"])
    def test_the_benchmark_finds_the_lines_that_it_replaces(self, settings: str) -> None:
        """brokers.py ends with a sentence where a shipped file has changed."""
        brokers = load_scripts("real_brokers")["real_brokers"]
        source = Path(str(brokers.__file__)).read_text("utf-8")
        replaced = re.findall(r'^ +\("( *[a-z_.]+(?: =|:) [^"]*)", f?"', source, re.MULTILINE)
        assert len(replaced) >= 5
        assert any(f"\n{line}\n" in settings for line in replaced)
        assert all(f"\n{line}\n" in self.RABBITMQ + self.NATS for line in replaced)
