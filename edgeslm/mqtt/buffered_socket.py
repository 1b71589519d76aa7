"""A socket that reads and writes in large pieces, for a client library that asks for a byte at a time.

Each call to the kernel gives the interpreter lock away, and between a network thread and an event loop that
are both busy, getting it back costs more than the call.
"""

from __future__ import annotations

import socket
import ssl

from edgeslm.mqtt.publish_filter import PublishFilter

READ_BYTES = 64 * 1024
UNSENT_BYTES = 64 * 1024
"""What may wait for :meth:`BufferedSocket.flush`; beyond it the socket takes no more, as a full one does."""


class BufferedSocket:
    """Around a socket; for one thread. Every method but ``flush`` and ``cut`` does what a socket's does.

    :param incoming: goes over what came in before it is read; may hold some of it back.
    """

    def __init__(self, sock: socket.socket, incoming: PublishFilter | None = None) -> None:
        self._socket = sock
        self._incoming = incoming
        self._received = memoryview(b"")
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)

    def settimeout(self, timeout_s: float | None) -> None:
        self._socket.settimeout(timeout_s)

    def do_handshake(self) -> None:
        """Of TLS, if it is spoken."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._socket.setsockopt(level, option, value)

    @property
    def unsent(self) -> int:
        """Bytes that wait for :meth:`flush`."""
        return len(self._unsent)

    def pending(self) -> int:
        """Bytes that can be read without the kernel: read before, or deciphered by TLS."""
        deciphered = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        return len(self._received) + deciphered

    def recv(self, size: int) -> bytes:
        if not self._received:
            data = self._socket.recv(max(size, READ_BYTES))
            if data and self._incoming is not None:
                data = self._incoming.feed(data)
                if not data:
                    raise BlockingIOError
            if len(data) <= size:
                return data
            self._received = memoryview(data)
        taken, self._received = self._received[:size], self._received[size:]
        return bytes(taken)

    def send(self, data: bytes | bytearray) -> int:
        """Takes all of it for the next :meth:`flush`; BlockingIOError if too much waits for that already."""
        if len(self._unsent) >= UNSENT_BYTES:
            self.flush()
            if len(self._unsent) >= UNSENT_BYTES:
                raise BlockingIOError
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Sends what the kernel takes; the rest stays.

        :raises OSError: the connection is broken.
        """
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return

    def close(self) -> None:
        """Sends a goodbye that may be among what is left, unless that means waiting."""
        try:
            self.flush()
        except OSError:
            self._unsent.clear()
        finally:
            self._socket.close()

    def cut(self) -> None:
        """Closes it without a goodbye. What was read and not taken yet is dropped."""
        self._received = memoryview(b"")
        self._unsent.clear()
        self._socket.close()
