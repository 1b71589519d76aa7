"""Web process, as controlled by the node: starts and restarts the process of an HTTP server, and sends it
messages.

When the pipe is full, messages are dropped, so that a server never delays the node. The web server's packages
are not imported here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeslm.config.extras import install_line
from edgeslm.errors import ConfigError
from edgeslm.ipc.codec import Frames, frames_to_child
from edgeslm.ipc.job import PYTHON
from edgeslm.ipc.pipe import Refused
from edgeslm.ipc.process import Child, RestartBackoff
from edgeslm.web.wire import Listening

if TYPE_CHECKING:  # web processes import this module, and need no configuration
    from edgeslm.config.web_sections import WebServer

MOST_BACKLOG_BYTES = 512 * 1024
"""Limit of unread bytes in the pipe, above which messages are dropped."""
FEWEST_CHARACTERS = 16
"""Minimum length of a token, in characters; a shorter token could be guessed."""
STOP_GRACE_S = 2.0
AGAIN_S = 2.0
TO_WEB = frames_to_child(Any)
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "api": ("starlette", "uvicorn"),
    "mcp": ("mcp",),
    "heads": ("sklearn",),
}
"""Import names of an extra's packages."""


def missing_packages(extra: str) -> str | None:
    """A sentence that says how to install an extra; None if its packages are installed."""
    if all(importlib.util.find_spec(name) is not None for name in PACKAGES[extra]):
        return None
    return f"needs more packages: {install_line(extra)}"


def check_installed(section: str, extra: str = "api") -> None:
    """Checks the packages of an extra. :raises ConfigError: one of them isn't installed."""
    if lacking := missing_packages(extra):
        raise ConfigError([f"{section}: {lacking}"])


def make_token(file: Path, prefix: str = "") -> bool:
    """Writes a new token, after ``prefix``, to a file that only the owner can read; does nothing if the file
    has a token.

    :return: whether the file was written. :raises OSError: it can't be written.
    """
    if file.exists() and file.stat().st_size:  # a power cut may have left the file empty
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(prefix + secrets.token_urlsafe(24) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    return True


def server_settings(section: WebServer) -> dict[str, Any]:
    """The part of the first message that every web process needs."""
    host, port = section.address
    return {
        "listen": section.listen,
        "host": "127.0.0.1" if host == "localhost" else host,
        "port": port,
        "hosts": list(section.hosts),
        "peers": list(section.peers),
        "secure": section.is_secure,
        "cert_file": str(section.cert_file) if section.cert_file else None,
        "key_file": str(section.key_file) if section.key_file else None,
    }


class WebListener(Protocol):
    """The node's side of a web process."""

    def begun(self) -> None:
        """Called when a new process has started; the process then needs all data."""

    def heard(self, said: Any) -> None:
        """Called with a message from the process."""

    def lost(self) -> None:
        """Called when the process has ended."""


class WebProcess:
    """Keeps a web process running; must be used in one event loop.

    :param name: the server's name in sentences and in the logger's name, such as ``console`` or ``API``.
    :param module: the module that the process runs, with the descriptor of the pipe and the log level.
    :param takes: format of the messages from the process.
    :param settings: fields of the first message to the process.
    :param again_s: pause before the first restart.
    """

    def __init__(
        self,
        name: str,
        module: str,
        takes: Frames,
        settings: dict[str, Any],
        listener: WebListener,
        *,
        log_level: str = "WARNING",
        command: Sequence[str] | None = None,
        again_s: float = AGAIN_S,
    ) -> None:
        self._name = name
        self._log = logging.getLogger(f"edgeslm.{name.lower()}")
        self._command = command or (*PYTHON, module)
        self._again_s = again_s
        self._settings = settings
        self._listener = listener
        self._log_level = log_level
        self._child = Child(TO_WEB, takes, self._take, self._lost)
        self._over = asyncio.Event()
        self._problem: str | None = None
        self.url: str | None = None
        """URL of the server while it listens, else None."""

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def problem(self) -> str | None:
        """Why the server doesn't run, as a sentence; None if there is no problem."""
        if self._problem is None:
            return None
        return f"The {self._name} doesn't run: {self._problem}."

    async def run(self) -> None:
        """Keeps the process running until cancelled."""
        backoff, loop = RestartBackoff(self._again_s), asyncio.get_running_loop()
        while True:
            self._over.clear()
            started_at = loop.time()
            try:
                await self._child.start(self._command, [self._log_level])
            except OSError as error:
                self._problem = f"it can't be started ({error.strerror})"
            else:
                self._child.send({"kind": "settings", **self._settings})
                self._listener.begun()
                await self._over.wait()
            await asyncio.sleep(backoff.next_s(loop.time() - started_at))

    def send(self, kind: str, *, is_kept: bool = False, **fields: Any) -> bool:
        """Sends a message to the process. :return: whether it was sent; unless ``is_kept``, it is dropped if
        the pipe is full."""
        if not is_kept and self._child.backlog_bytes > MOST_BACKLOG_BYTES:
            return False
        self._child.send({"kind": kind, **fields})
        return True

    async def stop(self) -> None:
        await self._child.stop(STOP_GRACE_S)

    def _take(self, said: Any) -> None:
        if isinstance(said, Listening):
            self.url, self._problem = said.url, None
            self._log.info("the %s is at %s", self._name, self.url)
        elif isinstance(said, Refused):
            self._problem = said.sentence
            self._log.error("the %s doesn't run: %s", self._name, self._problem)
            self._child.kill()
        else:
            self._listener.heard(said)

    def _lost(self, status: str) -> None:
        if self._problem is None:
            self._problem = f"its process ended ({status})"
            self._log.error("the %s's process ended (%s)", self._name, status)
        self.url = None
        self._listener.lost()
        self._over.set()
