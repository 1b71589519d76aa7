"""Buffered socket: reads and writes large blocks, because paho reads byte by byte.

Each system call releases the interpreter lock. If the network thread and the event loop are both busy,
getting the lock back costs more than the system call.
"""

from __future__ import annotations

import socket
import ssl

from edgeslm.mqtt.publish_filter import PublishFilter

READ_BYTES = 64 * 1024
UNSENT_BYTES = 64 * 1024
"""Size of the write buffer in bytes. If the buffer is full, :meth:`BufferedSocket.send` raises
BlockingIOError."""


class BufferedSocket:
    """Wraps a socket for use in one thread. All methods except ``flush`` and ``cut`` work like the methods of
    a socket.

    :param incoming: filter of received data, which holds back incomplete packets.
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
        """Performs the TLS handshake; does nothing without TLS."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.do_handshake()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self._socket.setsockopt(level, option, value)

    @property
    def unsent(self) -> int:
        """Bytes in the write buffer."""
        return len(self._unsent)

    def pending(self) -> int:
        """Bytes that can be read without a system call: buffered here or decrypted by TLS."""
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
        """Buffers all of ``data`` for the next :meth:`flush`. :raises BlockingIOError: the buffer is full."""
        if len(self._unsent) >= UNSENT_BYTES:
            self.flush()
            if len(self._unsent) >= UNSENT_BYTES:
                raise BlockingIOError
        self._unsent += data
        return len(data)

    def flush(self) -> None:
        """Sends what the kernel accepts; the rest stays buffered.

        :raises OSError: the connection is broken.
        """
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return

    def close(self) -> None:
        """Flushes the buffer, which may contain a DISCONNECT, and closes the socket. Never waits."""
        try:
            self.flush()
        except OSError:
            self._unsent.clear()
        finally:
            self._socket.close()

    def cut(self) -> None:
        """Closes the socket without flushing, and drops buffered input."""
        self._received = memoryview(b"")
        self._unsent.clear()
        self._socket.close()
