"""Large pieces in and out, and nothing lost between them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from edgeslm.mqtt.buffered_socket import UNSENT_BYTES, BufferedSocket


@pytest.fixture
def pair() -> Iterator[tuple[BufferedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    buffered = BufferedSocket(ours)
    buffered.setblocking(False)
    with ours, theirs:
        yield buffered, theirs


def test_one_call_reads_what_several_ask_for(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, theirs = pair
    theirs.sendall(b"abcdef")
    assert buffered.recv(1) == b"a"
    theirs.close()
    assert buffered.pending() == 5
    assert (buffered.recv(2), buffered.recv(100), buffered.recv(1)) == (b"bc", b"def", b"")


def test_nothing_to_read_is_said_as_a_socket_says_it(pair: tuple[BufferedSocket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        pair[0].recv(1)
    assert pair[0].pending() == 0


def test_what_is_sent_leaves_with_the_flush(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, theirs = pair
    theirs.setblocking(False)
    assert (buffered.send(b"abc"), buffered.send(b"def")) == (3, 3)
    with pytest.raises(BlockingIOError):
        theirs.recv(10)
    buffered.flush()
    assert (theirs.recv(10), buffered.unsent) == (b"abcdef", 0)


def test_what_a_slow_reader_leaves_waiting_is_bounded(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, theirs = pair
    piece = bytes(range(256)) * 64
    sent = bytearray()
    with pytest.raises(BlockingIOError):
        while True:
            buffered.send(piece)
            sent += piece
    assert UNSENT_BYTES <= buffered.unsent < UNSENT_BYTES + len(piece)
    got = bytearray()
    while len(got) < len(sent):
        got += theirs.recv(65_536)
        buffered.flush()
    assert got == sent


def test_a_goodbye_leaves_when_the_socket_is_closed(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, theirs = pair
    buffered.send(b"goodbye")
    buffered.close()
    assert (theirs.recv(10), theirs.recv(10)) == (b"goodbye", b"")


def test_closing_says_nothing_of_a_broken_connection(pair: tuple[BufferedSocket, socket.socket]) -> None:
    buffered, theirs = pair
    theirs.close()
    buffered.send(b"goodbye")
    buffered.close()
    assert (buffered.unsent, buffered.fileno()) == (0, -1)
