"""systemd notifications (sd_notify(3)): ready, alive, stopping, and what the service is doing.

Without a service manager every call does nothing. None raises and none waits: a message that can't go now
goes with the next. Knows no daemon; whether it is alive is for :mod:`edgeslm.telemetry.liveness` to say.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

log = logging.getLogger("edgeslm.telemetry")

LOOK_S = 10.0
"""The longest pause between two looks at whether the service is alive; a short watchdog makes it shorter."""
START_LIMIT_S = 900.0
"""How long a start may take until systemd's own limit holds: 4 GB from a slow SD card take a few minutes."""


class ServiceManager:
    """systemd, if it started this process and waits for word of it (``Type=notify``).

    ``watchdog_s`` is the time within which it wants a sign of life, None where it wants none.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ means the abstract namespace; vsock: is for virtual machines, not for services.
        self._address = "\0" + path[1:] if path.startswith("@") else path if path.startswith("/") else ""
        self.watchdog_s = _watchdog_s(environment) if self._address else None
        self._unsaid: dict[str, str] = {}
        self._status = ""
        self._is_starting = True

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The start is over: units that come after this one may start, and the watchdog begins to wait."""
        self._is_starting = False
        self._status = status
        self._say(READY="1", STATUS=status)

    def status(self, status: str) -> None:
        """What ``systemctl status`` shows."""
        self._status = status
        self._say(STATUS=status)

    def reloading(self) -> None:
        """A new configuration is being taken up (``Type=notify-reload``); :meth:`ready` follows."""
        self._say(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))

    def stopping(self, status: str, *, within_s: float) -> None:
        """The end has begun, and may take ``within_s`` even if the unit allows it less."""
        self._is_starting = False
        self._status = status
        self._say(STOPPING="1", STATUS=status, EXTEND_TIMEOUT_USEC=_usec(within_s))

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._say(WATCHDOG="1")

    async def watch(self, fault: Callable[[], str | None]) -> None:
        """Feeds the watchdog as long as ``fault`` finds none, and asks for time as long as the start takes.

        Runs in the event loop on purpose: a loop that is stuck feeds nothing. ``fault`` says in a sentence
        why the service is not alive, or None; the sentence is logged, and shown by ``systemctl status``.
        """
        pause_s = min(LOOK_S, self.watchdog_s / 3 if self.watchdog_s else LOOK_S)
        give_up_at = time.monotonic() + START_LIMIT_S
        known: str | None = None
        while self:
            found = fault()
            if found and found != known:
                log.error("the node is stuck and its watchdog is not fed: %s", found)
            if found != known:
                self._say(STATUS=found or self._status)
            known = found
            if found is None and self._is_starting and time.monotonic() < give_up_at:
                self._say(EXTEND_TIMEOUT_USEC=_usec(3 * pause_s))
            if found is None and self.watchdog_s:
                self.alive()
            await asyncio.sleep(pause_s)

    def _say(self, **fields: str) -> None:
        if not self._address:
            return
        self._unsaid.update(fields)
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in self._unsaid.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
                to.setblocking(False)
                to.sendto(message.encode(errors="replace"), self._address)
        except OSError as error:  # its buffer is full, or it is gone
            log.debug("systemd can't be told: %s", error)
            self._unsaid.pop("WATCHDOG", None)  # a sign of life is good for the moment only
        else:
            self._unsaid.clear()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """As sd_watchdog_enabled(3): the variables may have been meant for the process that started this one."""
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    meant = usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid())
    return int(usec) / 1e6 if meant else None


def _usec(seconds: float) -> str:
    return str(round(seconds * 1e6))
