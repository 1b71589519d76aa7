"""Console process, as controlled by the node: starts and restarts the process, and sends it messages.

When the pipe is full, messages are dropped, so that the console never delays the node. The web server's
packages are not imported here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from edgeslm.config.sections import Console
from edgeslm.console.access import FEWEST_CHARACTERS
from edgeslm.console.wire import FROM_CONSOLE, TO_CONSOLE, Ask, Listening, Look, Said, Viewers
from edgeslm.errors import ConfigError
from edgeslm.ipc.job import PYTHON
from edgeslm.ipc.pipe import Refused
from edgeslm.ipc.process import Child, RestartBackoff

log = logging.getLogger("edgeslm.console")

COMMAND: tuple[str, ...] = (*PYTHON, "edgeslm.console.worker")
MOST_BACKLOG_BYTES = 512 * 1024
"""Limit of unread bytes in the pipe, above which messages are dropped."""
STOP_GRACE_S = 2.0
AGAIN_S = 2.0


def read_token(section: Console, state_dir: Path) -> str:
    """The sign-in token; without ``console.token_file``, a token is created at the first start.

    :raises ConfigError: the file can't be read, or the token is too short.
    """
    file = section.token_file or state_dir / "console-token"
    where = f"console.token_file: {file}"
    try:
        # A power cut may have left the file empty.
        if section.token_file is None and not (file.exists() and file.stat().st_size):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(secrets.token_urlsafe(24) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            log.info("the token to sign in to the console with is in %s", file)
        token = file.read_text("utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{where} can't be read: {getattr(error, 'strerror', None) or error}"]) from None
    if len(token) < FEWEST_CHARACTERS:
        how = "in its first line, which `openssl rand -hex 20` makes"
        raise ConfigError([f"{where} needs a token of {FEWEST_CHARACTERS} characters or more {how}"])
    return token


def check_installed() -> None:
    """Checks the console's packages. :raises ConfigError: the web server isn't installed."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise ConfigError(["console: needs more packages: pip install 'edgeslm[api]'"])


class ConsoleListener(Protocol):
    def begun(self) -> None:
        """Called when a new console process has started; the process then needs all data."""

    def heard(self, said: Ask | Look | Viewers) -> None:
        """Called with a message from the console process."""


class ConsoleProcess:
    """Keeps a console process running; must be used in one event loop.

    :param settings: fields of the first message to the process.
    :param again_s: pause before the first restart.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        listener: ConsoleListener,
        *,
        log_level: str = "WARNING",
        command: Sequence[str] = COMMAND,
        again_s: float = AGAIN_S,
    ) -> None:
        self._command = command
        self._again_s = again_s
        self._settings = settings
        self._listener = listener
        self._log_level = log_level
        self._child = Child(TO_CONSOLE, FROM_CONSOLE, self._take, self._lost)
        self._over = asyncio.Event()
        self._problem: str | None = None
        self.url: str | None = None
        """URL of the console while it listens, else None."""
        self.viewers = 0

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def problem(self) -> str | None:
        """Why the console doesn't run, as a sentence; None if there is no problem."""
        return f"The console doesn't run: {self._problem}." if self._problem else None

    async def run(self) -> None:
        """Keeps the console process running until cancelled."""
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

    def send(self, kind: str, **fields: Any) -> bool:
        """Sends a message to the process. :return: whether it was sent; it is dropped if the pipe is full."""
        if self._child.backlog_bytes > MOST_BACKLOG_BYTES:
            return False
        self._child.send({"kind": kind, **fields})
        return True

    async def stop(self) -> None:
        await self._child.stop(STOP_GRACE_S)

    def _take(self, said: Said) -> None:
        if isinstance(said, Listening):
            self.url, self._problem = said.url, None
            log.info("the console is at %s", self.url)
        elif isinstance(said, Refused):
            self._problem = said.sentence
            log.error("the console doesn't run: %s", self._problem)
            self._child.kill()
        else:
            if isinstance(said, Viewers):
                self.viewers = said.count
            self._listener.heard(said)

    def _lost(self, status: str) -> None:
        if self._problem is None:
            self._problem = f"its process ended ({status})"
            log.error("the console's process ended (%s)", status)
        self.url, self.viewers = None, 0
        self._over.set()
