"""Fake service manager for tests: systemd's side of sd_notify(3), with a real datagram socket."""

from __future__ import annotations

import contextlib
import socket

from tests.support.apps import WAIT_S


class FakeServiceManager:
    """Records every datagram as its fields. ``address`` may start with a NUL byte (an abstract socket)."""

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
