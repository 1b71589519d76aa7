"""Both ends of a pipe between parent and child process, which carries frames with a length prefix.

The parent's end (:class:`Link`) never blocks the event loop. Blocking would stop the loop in two cases: a
child reads nothing during a prefill, when its inference library holds the GIL, and a stopped child may leave
a frame half written. The child's end (:class:`Pipe`) blocks.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

from edgeslm.ipc.codec import FrameError, Frames

log = logging.getLogger("edgeslm.ipc")

_HEADER = struct.Struct("!I")
"""Length of the frame that follows, in bytes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Message from a child that can't start its work; ``sentence`` gives the reason. After it has sent this
    message, the child ends or can't be used."""

    sentence: str


class MessageHandler(Protocol):
    """Handles a message from the other end. An exception in the handler closes the pipe."""

    def __call__(self, message: Any, /) -> None: ...


class Link(asyncio.Protocol):
    """Sends and receives messages over a stream socket.

    :param on_message: called with each message; an exception closes the link, and so do invalid bytes.
    :param on_lost: called once when the other end has closed the link or sent an invalid message, but not
        after :meth:`close`.
    """

    def __init__(
        self, sends: Frames, takes: Frames, on_message: MessageHandler, on_lost: Callable[[], None]
    ) -> None:
        self._sends = sends
        self._takes = takes
        self._on_message = on_message
        self._on_lost = on_lost
        self._received = bytearray()
        self._closed = False
        self.is_broken = False
        """Whether the other end sent an invalid message."""

    def send(self, message: Any) -> None:
        """Never blocks. A message to a child that has ended is lost, and ``on_lost`` is called.

        :raises FrameError: the message has another type, or is too long; nothing was sent.
        """
        frame = self._sends.encode(message)
        self._transport.write(_HEADER.pack(len(frame)) + frame)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait to be sent because the other end reads too slowly."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Closes at once and drops unsent messages."""
        self._closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.is_broken:
            return
        self._received += data
        try:
            self._take()
        except FrameError as error:
            self._break(str(error))
        except Exception as error:  # only the type is logged: the text may quote the message
            log.debug("taking a message", exc_info=True)
            self._break(f"taking it failed with {type(error).__name__}")

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._on_lost()

    def _take(self) -> None:
        while not self._closed and len(self._received) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._received)
            if size > self._takes.most_bytes:
                raise FrameError(f"a frame of {size} bytes")
            end = _HEADER.size + size
            if len(self._received) < end:
                return
            frame = self._received[_HEADER.size : end]
            del self._received[:end]
            self._on_message(self._takes.decode(frame))

    def _break(self, why: str) -> None:
        log.error("a child process sent an invalid message (%s)", why)
        self.is_broken = True
        self._received.clear()
        self._transport.abort()


class Pipe:
    """The child's end. Any thread may send; only one thread may receive.

    :param descriptor: descriptor of a connected stream socket, which the pipe closes.
    """

    def __init__(self, descriptor: int, sends: Frames, takes: Frames) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._stream = self._socket.makefile("rb")
        self._sends = sends
        self._takes = takes
        self._lock = threading.Lock()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Any) -> None:
        """
        :raises FrameError: the message has another type, or is too long; nothing was sent.
        :raises OSError: the other end is closed.
        """
        frame = self._sends.encode(message)
        with self._lock:
            self._socket.sendall(_HEADER.pack(len(frame)) + frame)

    def receive(self) -> Any:
        """Waits for the next message.

        :raises FrameError: the bytes are invalid.
        :raises EOFError: the other end is closed.
        :raises OSError: the other end was closed while either end had unread data.
        """
        (size,) = _HEADER.unpack(self._read(_HEADER.size))
        if size > self._takes.most_bytes:
            raise FrameError(f"a frame of {size} bytes")
        return self._takes.decode(self._read(size))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise EOFError
        return data
