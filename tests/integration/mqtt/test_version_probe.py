"""Old brokers, and brokers that were only in trouble when they were asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.mqtt.version_probe import is_old_broker
from tests.support.brokers import Mosquitto, free_port

CONNACK_311 = bytes([0x20, 2, 0, 0])
REFUSED_311 = bytes([0x20, 2, 0, 5])
Serve = Callable[[Callable[[int, socket.socket], None]], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a listener that hands each connection with its protocol level to a function; the port."""
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def start(answer: Callable[[int, socket.socket], None]) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                answer(connection.recv(1000)[8], connection)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return int(listener.getsockname()[1])

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for one in [*threads]:
        one.join()
    for connection in connections:
        connection.close()


def ask(port: int, **timeouts: float) -> bool:
    return is_old_broker(BrokerAddress.parse(f"mqtt://127.0.0.1:{port}"), **timeouts)


@pytest.mark.parametrize("answer", [CONNACK_311, REFUSED_311])
def test_a_broker_that_hangs_up_on_mqtt_5_alone_is_old(serve: Serve, answer: bytes) -> None:
    def old(level: int, connection: socket.socket) -> None:
        if level == 4:
            connection.sendall(answer)
        else:
            connection.shutdown(socket.SHUT_RDWR)

    assert ask(serve(old))


def test_a_broker_that_is_silent_to_mqtt_5_alone_is_old(serve: Serve) -> None:
    port = serve(lambda level, connection: connection.sendall(CONNACK_311) if level == 4 else None)
    assert ask(port, ask_s=2.0)


def test_a_broker_of_both_is_not_old(broker: Mosquitto) -> None:
    assert not ask(broker.port)
    assert "edgeslm-asks" in broker.log


def test_who_answers_nothing_is_not_taken_for_old(serve: Serve) -> None:
    assert not ask(serve(lambda level, connection: None), ask_s=0.3)
    assert not ask(serve(lambda level, connection: connection.shutdown(socket.SHUT_RDWR)), ask_s=0.3)
    assert not ask(free_port(), ask_s=0.3)
