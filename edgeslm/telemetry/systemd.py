"""systemd notifications (sd_notify(3)): ready, watchdog, stopping, status.

If systemd didn't start the process, all calls do nothing. No call raises or blocks; a notification that can't
be sent is sent with the next one. :mod:`edgeslm.telemetry.liveness` decides whether the node is alive.
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
START_LIMIT_S = 900.0
"""Maximum time for which the start extends systemd's timeout; reading 4 GB from an SD card takes minutes."""


class ServiceManager:
    """Notifies systemd, if it started this process with ``Type=notify``; otherwise this object is false.

    ``watchdog_s`` is the watchdog's interval in seconds; None without a watchdog.
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
        """Reports that the start is over, so that systemd starts later units and activates the watchdog."""
        self._is_starting = False
        self._status = status
        self._say(READY="1", STATUS=status)

    def status(self, status: str) -> None:
        """Sets the text in ``systemctl status``."""
        self._status = status
        self._say(STATUS=status)

    def reloading(self) -> None:
        """Reports that a reload has begun (``Type=notify-reload``); :meth:`ready` reports its end."""
        self._say(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))

    def stopping(self, status: str, *, within_s: float) -> None:
        """Reports that the stop has begun and may take ``within_s`` seconds, even if the unit allows less."""
        self._is_starting = False
        self._status = status
        self._say(STOPPING="1", STATUS=status, EXTEND_TIMEOUT_USEC=_usec(within_s))

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._say(WATCHDOG="1")

    async def watch(
        self,
        fault: Callable[[], str | None],
        *,
        look_s: float = LOOK_S,
        start_limit_s: float = START_LIMIT_S,
    ) -> None:
        """Feeds the watchdog while ``fault`` returns None, and extends systemd's timeout during the start.

        Runs in the event loop, so that a stuck loop stops feeding the watchdog. If the service is not alive,
        ``fault`` returns a sentence, which is logged and shown by ``systemctl status``.

        :param look_s: longest pause between two checks; a short watchdog interval shortens the pause.
        :param start_limit_s: how long a start may extend systemd's timeout.
        """
        pause_s = min(look_s, self.watchdog_s / 3 if self.watchdog_s else look_s)
        give_up_at = time.monotonic() + start_limit_s
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
        except OSError as error:  # the socket's buffer is full, or systemd is gone
            log.debug("systemd can't be told: %s", error)
            self._unsaid.pop("WATCHDOG", None)  # a late one would be false
        else:
            self._unsaid.clear()


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Interval of the watchdog, determined as in sd_watchdog_enabled(3); None without a watchdog.

    Environment variables that systemd set for another process (``WATCHDOG_PID``) are ignored.
    """
    usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    meant = usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid())
    return int(usec) / 1e6 if meant else None


def _usec(seconds: float) -> str:
    return str(round(seconds * 1e6))
