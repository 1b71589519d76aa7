"""Network namespaces joined by a bridge: processes reach each other through veth pairs alone.

Needs root and iproute2; all of it is gone at the end.
"""

from __future__ import annotations

import os
import subprocess
from types import TracebackType


class Namespaces:
    """``count`` of them; ``host`` is this machine's address on their bridge."""

    def __init__(self, count: int) -> None:
        if os.geteuid() != 0:
            raise SystemExit("network namespaces need root; --flat does without them")
        self._bridge = f"el{os.getpid() % 100_000}"
        self._net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self.host = f"{self._net}.1"
        self.names = [f"{self._bridge}-{number}" for number in range(1, count + 1)]

    def __enter__(self) -> Namespaces:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def command(self, number: int) -> tuple[str, ...]:
        """What goes before a command that shall run in a namespace."""
        return ("ip", "netns", "exec", self.names[number])

    def _make(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(self.names, 2):
            outer, inner = f"{name}o", f"{name}i"
            _ip("netns", "add", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            _ip("link", "set", outer, "master", self._bridge, "up")
            _ip("link", "set", inner, "netns", name)
            for words in (
                ("addr", "add", f"{self._net}.{number}/24", "dev", inner),
                ("link", "set", inner, "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", name, *words)

    def _remove(self) -> None:
        for name in self.names:
            _ip("netns", "del", name, must=False)
        _ip("link", "del", self._bridge, must=False)


def _ip(*words: str, must: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if must and done.returncode:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")
