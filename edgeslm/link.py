"""The parent's end of the pipe to a worker: the frames of ``multiprocessing.connection``, never blocking.

A ``Connection`` here would stop the event loop twice: its ``send`` waits for a reader that gets no turn
while the worker is in a prefill (the binding holds the interpreter lock), its ``recv`` for the rest of a
message that a stopped worker began. The worker keeps its ``Connection``; knows nothing of what is sent.
"""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, cast

_HEADER = struct.Struct("!i")
"""Length of the pickle that follows, as ``Connection._send_bytes`` writes it for less than 2 GB."""


class Codec(NamedTuple):
    """How values are written, and how long what the other end sends may be, in bytes."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytearray], Any]
    limit: int


PICKLE = Codec(pickle.dumps, pickle.loads, 2**31 - 1)
"""For workers that talk to this process alone."""


class Link(asyncio.Protocol):
    """Python values out and in over a stream socket.

    :param on_message: gets each value.
    :param on_lost: called once, when the other end is closed or sends what is no value; not after
        :meth:`close`.
    """

    def __init__(
        self, on_message: Callable[[Any], None], on_lost: Callable[[], None], codec: Codec = PICKLE
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._codec = codec
        self._received = bytearray()
        self._closed = False

    def send(self, value: Any) -> None:
        """Never waits; what goes to a worker that has ended is lost, and ``on_lost`` follows."""
        data = self._codec.encode(value)
        self._transport.write(_HEADER.pack(len(data)) + data)

    @property
    def backlog_bytes(self) -> int:
        """What the other end has not taken yet."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Closes at once; what was not sent yet is dropped."""
        self._closed = True
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._closed and len(self._received) >= _HEADER.size:
            (size,) = _HEADER.unpack_from(self._received)
            end = _HEADER.size + size
            if not 0 <= size <= self._codec.limit:
                self._transport.abort()
                return
            if len(self._received) < end:
                return
            try:
                value = self._codec.decode(self._received[_HEADER.size : end])
            except (ValueError, RecursionError):
                self._transport.abort()
                return
            del self._received[:end]
            self._on_message(value)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closed:
            self._closed = True
            self._on_lost()
