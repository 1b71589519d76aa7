"""systemd's end of sd_notify(3) for tests: a real datagram socket."""

from __future__ import annotations

import contextlib
import socket

from tests.support.apps import WAIT_S


class FakeServiceManager:
    """Hears every datagram as the fields in it. ``address`` may begin with a NUL byte: an abstract one."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(WAIT_S)
        self._socket.bind(address)

    def hear(self) -> dict[str, str]:
        lines = self._socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def is_quiet(self) -> bool:
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return not self._socket.recv(65536)
        self._socket.settimeout(WAIT_S)
        return True

    def close(self) -> None:
        self._socket.close()
