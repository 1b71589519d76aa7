"""Replaces what the product takes from outside: clocks, random numbers, threads, network, engines."""

from __future__ import annotations

import random
import secrets
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, SimpleNamespace
from typing import Any
from unittest import mock

from edgeslm.engine.host import process as engine_process
from edgeslm.mqtt import client as mqtt_client
from edgeslm.mqtt import connection
from edgeslm.node import daemon
from edgeslm.storage import database
from tests.simulation.disk import SimulatedVfs
from tests.simulation.loop import PROCESS, Killed, SimLoop
from tests.simulation.network import SimNetwork, SimPahoClient


class SimConnection(sqlite3.Connection):
    """A connection whose process may be killed before or after each statement."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        process = PROCESS.get()
        if process is not None:
            statement(process)
        try:
            found = super().execute(*arguments)
        except sqlite3.Error:
            if process is not None and process.is_dead:
                raise Killed from None
            raise
        if process is not None:
            statement(process)
        return found


def statement(process: Any) -> None:
    """A moment before or after a statement of SQLite."""
    if process.is_dead:
        raise Killed
    if process.kill_in_statements is not None:
        process.kill_in_statements -= 1
        if process.kill_in_statements <= 0:
            process.kill_in_statements = None
            process.killed_at = [*statement_points(sys._getframe(2))]
            process.on_kill()
            raise Killed


_opened: list[sqlite3.Connection] = []


def statement_points(frame: FrameType | None) -> Iterator[tuple[str, int]]:
    """Files and lines of the calls that lead to a statement."""
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def connect(path: Any, **options: Any) -> sqlite3.Connection:
    opened = sqlite3.connect(path, factory=SimConnection, **options)
    _opened.append(opened)
    return opened


def _close_all() -> None:
    """Closes the connections of killed processes too; the VFS lets nothing of these reach a disk."""
    for opened in _opened:
        opened.close()
    _opened.clear()


_VFS: list[SimulatedVfs] = []


class _NoAlarm:
    def ring(self) -> None:
        return

    close = quiet = ring


@contextmanager
def simulated(loop: SimLoop, seed: int) -> Iterator[None]:
    """The product runs in ``loop`` with its clock."""
    chance = random.Random(f"{seed} product")
    if not _VFS:  # it must live as long as any connection
        _VFS.append(SimulatedVfs())
    vfs = _VFS[0]
    sqlite: Any = SimpleNamespace(**{name: getattr(sqlite3, name) for name in dir(sqlite3)})
    sqlite.connect = connect

    def token_hex(size: int = 32) -> str:
        return chance.randbytes(size).hex()

    with ExitStack() as patches:

        def replace(target: Any, name: str, value: Any) -> None:
            patches.enter_context(mock.patch.object(target, name, value))

        replace(time, "monotonic", loop.time)
        replace(time, "time", loop.wall_time)
        replace(secrets, "token_hex", token_hex)
        replace(connection, "Client", SimPahoClient)
        replace(connection, "Alarm", _NoAlarm)
        replace(connection, "wrap_sockets", lambda client, tls, *, mqtt5: None)
        replace(connection, "random", chance)
        replace(mqtt_client, "Network", SimNetwork)
        replace(database, "sqlite3", sqlite)
        replace(daemon, "gc", SimpleNamespace(collect=lambda: 0))
        replace(daemon, "give_back_free_memory", lambda: None)
        replace(engine_process, "os", SimpleNamespace(environ={}))
        vfs.register()
        patches.callback(vfs.unregister)
        patches.callback(_close_all)
        yield
