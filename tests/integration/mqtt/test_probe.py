"""One look at a broker: each thing that can be wrong has its sentence."""

from __future__ import annotations

import gc
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.config.loader import Config
from edgeslm.mqtt.connection import ANSWER_S
from edgeslm.mqtt.probe import probe_broker
from tests.support.brokers import Mosquitto, free_port

MakeBroker = Callable[..., Mosquitto]
CONNACK_311 = bytes([0x20, 2, 0, 0])


def config(url: str, **broker: Any) -> Config:
    return Config.model_validate(
        {
            "node": "hall",
            "broker": {"url": url, **broker},
            "models": {"small": {"bundle": Path("/srv/small")}},
            "tasks": {"triage": {"kind": "classify", "model": "small", "labels": ["a", "b"]}},
        }
    )


def problem(url: str, *, answer_s: float = ANSWER_S, **broker: Any) -> str:
    problems = probe_broker(config(url, **broker), answer_s=answer_s).problems
    assert len(problems) == 1
    return problems[0]


def notes(url: str) -> list[str]:
    probe = probe_broker(config(url))
    assert probe.problems == []
    return probe.notes


def test_a_good_broker(broker: Mosquitto) -> None:
    probe = probe_broker(config(broker.url))
    assert probe.problems == []
    assert probe.latency_ms is not None
    assert "its answer take" in probe.notes[0]


def test_it_leaves_no_session_and_nothing_retained(broker: Mosquitto) -> None:
    probe_broker(config(broker.url))
    seen = subprocess.run(
        ["mosquitto_sub", "-p", str(broker.port), "-t", "edgeslm/#", "-W", "1"],
        capture_output=True,
        check=False,
    )
    assert seen.stdout == b""
    assert broker.log.count("edgeslm-hall-check") > 0


def test_a_slow_broker_is_told_how_to_be_fast(make_broker: MakeBroker) -> None:
    broker = make_broker("set_tcp_nodelay false\n")
    probe = probe_broker(config(broker.url))
    assert probe.problems == []
    assert any("set_tcp_nodelay true" in note for note in probe.notes)


def test_nobody_listens() -> None:
    assert "Nothing listens at" in problem(f"mqtt://127.0.0.1:{free_port()}")


def test_an_unknown_host() -> None:
    assert "'broker.invalid' isn't known" in problem("mqtt://broker.invalid")


def test_a_login_is_refused(make_broker: MakeBroker, tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", passwords, "ann", "right"], check=True, capture_output=True
    )
    broker = make_broker(f"password_file {passwords}\n", anonymous=False)
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    assert "refuses a login without a user" in problem(broker.url)
    said = problem(broker.url, username="ann", password_file=secret)
    assert "refuses the user 'ann' or its password" in said
    secret.write_text("right")
    assert probe_broker(config(broker.url, username="ann", password_file=secret)).problems == []


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plain_port_asked_for_tls(broker: Mosquitto) -> None:
    assert "its TLS port" in problem(broker.url.replace("mqtt:", "mqtts:"))
    gc.collect()


def test_a_missing_password_file(broker: Mosquitto, tmp_path: Path) -> None:
    assert "password file" in problem(broker.url, username="ann", password_file=tmp_path / "none")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("retain_available false\n", "no retained messages"),
        ("max_packet_size 20000\n", "limits.packet_bytes is 1048576"),
        ("max_qos 0\n", "max_qos 2"),
    ],
)
def test_what_a_node_needs_is_missing(make_broker: MakeBroker, lines: str, says: str) -> None:
    assert says in problem(make_broker(lines).url)


def test_publishing_is_refused(make_broker: MakeBroker, tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    assert "refuses a message to edgeslm/v1/hall/res/" in problem(make_broker(f"acl_file {acl}\n").url)


@pytest.fixture
def answers() -> Iterator[Callable[[Callable[[bytes], bytes]], str]]:
    """Starts a server that answers each connection's first packet and hangs up; gives its URL."""
    listeners: list[socket.socket] = []

    def start(answer: Callable[[bytes], bytes]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(answer(connection.recv(1000)))

        threading.Thread(target=serve, daemon=True).start()
        return f"mqtt://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


Answers = Callable[[Callable[[bytes], bytes]], str]


def is_mqtt_5(connect: bytes) -> bool:
    return connect[connect.index(b"MQTT") + 4] == 5


def test_an_old_broker_that_says_so(answers: Answers) -> None:
    assert "speaks no MQTT 5" in problem(answers(lambda connect: bytes([0x20, 2, 0, 1])))


def test_an_old_broker_that_only_hangs_up(answers: Answers) -> None:
    url = answers(lambda connect: b"" if is_mqtt_5(connect) else CONNACK_311)
    assert "speaks no MQTT 5" in problem(url)


def test_something_else_than_a_broker(answers: Answers) -> None:
    assert "hung up without an answer" in problem(answers(lambda connect: b""))
    assert "broker" in problem(answers(lambda connect: b"HTTP/1.1 400 Bad Request\r\n\r\n"))


def test_an_old_broker_that_says_nothing() -> None:
    """As amqtt: it ignores a CONNECT of MQTT 5 and keeps the connection."""
    waiting = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                waiting.append(connection)
                if not is_mqtt_5(connection.recv(1000)):
                    connection.sendall(CONNACK_311)

        server = threading.Thread(target=serve)
        server.start()
        assert "speaks no MQTT 5" in problem(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", answer_s=2.0)
        server.join()
    for connection in waiting:
        connection.close()


def test_no_session_is_kept(answers: Answers) -> None:
    connack = bytes([0x20, 10, 0, 0, 7, 0x11, 0, 0, 0, 0, 0x24, 0])
    problems = probe_broker(config(answers(lambda connect: connack))).problems
    assert any("keeps no session for the node" in one for one in problems)


def test_what_the_broker_takes_at_a_time_is_told(make_broker: MakeBroker) -> None:
    lines = "max_inflight_messages {}\n"
    assert any("takes 20 messages" in note for note in notes(make_broker(lines.format(20)).url))
    assert not any(
        "messages of a client at a time" in note for note in notes(make_broker(lines.format(256)).url)
    )


def test_what_can_t_be_seen_is_said(make_broker: MakeBroker) -> None:
    """mosquitto keeps sessions for as long as it likes and grants what was asked for."""
    broker = make_broker("persistence false\npersistent_client_expiration 1h\n")
    assert any("persistent_client_expiration" in note for note in notes(broker.url))


def test_a_session_that_is_not_kept_long_enough(answers: Answers) -> None:
    # CONNACK with Session Expiry Interval 60 and Maximum QoS 0, so that the probe ends there.
    connack = bytes([0x20, 10, 0, 0, 7, 0x11, 0, 0, 0, 60, 0x24, 0])
    problems = probe_broker(config(answers(lambda connect: connack))).problems
    assert any("session for 60 s instead of 604800 s" in one for one in problems)
