"""Both ends of a pipe: frames whole and in pieces, ends, and what no child may do to its parent."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.engine.frames import FROM_ENGINE, TO_ENGINE, Cancel, Chunk
from edgeslm.ipc.codec import FrameError, Frames
from edgeslm.ipc.pipe import Link, Pipe

SMALL = Frames(Chunk, 100)


class FakeTransport:
    """Tells its protocol that it ended, as a real one does in the loop's next round."""

    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


class Heard:
    def __init__(self, frames: Frames = SMALL) -> None:
        self.messages: list[Any] = []
        self.losses = 0
        self.link = Link(frames, frames, self.messages.append, self.lose)
        self.transport = FakeTransport()
        self.link.connection_made(cast(asyncio.Transport, self.transport))

    def lose(self) -> None:
        self.losses += 1


@pytest.fixture
def pipes() -> Iterator[tuple[Pipe, Pipe]]:
    one, other = socket.socketpair()
    ours, theirs = Pipe(one.detach(), FROM_ENGINE, TO_ENGINE), Pipe(other.detach(), TO_ENGINE, FROM_ENGINE)
    yield ours, theirs
    ours.close()
    theirs.close()


def framed(message: Chunk) -> bytes:
    frame = SMALL.encode(message)
    return struct.pack("!I", len(frame)) + frame


@given(st.lists(st.integers(1, 9)), st.lists(st.integers(0, 60)))
def test_messages_come_whole_however_they_are_cut(numbers: list[int], cuts: list[int]) -> None:
    heard, data = Heard(), b"".join(framed(Chunk(number, "x" * number)) for number in numbers)
    for cut in [*cuts, len(data)]:
        heard.link.data_received(data[:cut])
        data = data[cut:]
    assert heard.messages == [Chunk(number, "x" * number) for number in numbers]
    assert not heard.transport.is_aborted


@given(st.lists(st.binary(max_size=40) | st.just(framed(Chunk(1, "x")))))
def test_whatever_bytes_come_nothing_is_raised_and_little_is_kept(pieces: list[bytes]) -> None:
    heard = Heard()
    for piece in pieces:
        heard.link.data_received(piece)
        assert len(heard.link._received) <= 104 + 40
    assert all(type(message) is Chunk for message in heard.messages)
    assert heard.transport.is_aborted == heard.link.is_broken
    heard.link.connection_lost(None)
    assert heard.losses == 1


def test_nothing_is_taken_from_a_link_that_is_broken() -> None:
    heard = Heard()
    heard.link.data_received(b"\xff\xff\xff\xff" + framed(Chunk(1, "x")))
    heard.link.data_received(framed(Chunk(2, "x")))
    assert (heard.messages, heard.transport.is_aborted) == ([], True)
    assert not heard.link._received


def test_a_message_that_cant_be_sent_leaves_the_link_as_it_was() -> None:
    heard = Heard()
    with pytest.raises(FrameError):
        heard.link.send(Chunk(1, "x" * 200))
    assert not heard.transport.is_aborted


def test_threads_send_whole_messages(pipes: tuple[Pipe, Pipe]) -> None:
    ours, theirs = pipes

    def send(number: int) -> None:
        for _ in range(20):
            ours.send(Chunk(number, str(number) * 50_000))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        chunk = theirs.receive()
        assert chunk.text == str(chunk.number) * 50_000
    for thread in threads:
        thread.join()


def test_the_end_of_a_pipe_is_told_and_so_is_what_is_no_message(pipes: tuple[Pipe, Pipe]) -> None:
    ours, theirs = pipes
    theirs.send(Cancel(7))
    assert ours.receive() == Cancel(7)
    os.write(theirs.fileno(), struct.pack("!I", 2**32 - 1))
    with pytest.raises(FrameError):
        ours.receive()
    os.write(theirs.fileno(), b"\0\0\0\x09half")
    theirs.close()
    with pytest.raises(EOFError):
        ours.receive()
    with pytest.raises(OSError):
        ours.send(Chunk(1, "x"))
