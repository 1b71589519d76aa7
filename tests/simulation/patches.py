"""Replaces what the product takes from outside: clocks, random numbers, threads, network, engines."""

from __future__ import annotations

import random
import secrets
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType, SimpleNamespace
from typing import Any, Protocol
from unittest import mock

from edgeslm.client import client as app_client
from edgeslm.client import pending_request, session
from edgeslm.engine.host import process as engine_process
from edgeslm.knowledge.service import process as knowledge_process
from edgeslm.mqtt import client as mqtt_client
from edgeslm.mqtt import connection
from edgeslm.node import daemon, in_flight, request_handler
from edgeslm.node.routes import redactor, route, router
from edgeslm.protocol.delivery import Delivery
from edgeslm.storage import atomic_json, database, encryption, journal, renewal
from edgeslm.telemetry import alerts
from tests.simulation.disk import SimulatedVfs, sync_outside
from tests.simulation.knowledge import SimKnowledgeChild
from tests.simulation.loop import PROCESS, Killed, SimLoop
from tests.simulation.network import SimNetwork, SimPahoClient
from tests.simulation.setup import Setup


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
    is_due = False
    if process.kill_in_statements is not None:
        process.kill_in_statements -= 1
        if process.kill_in_statements <= 0:
            process.kill_in_statements = None
            is_due = True
    if is_due or (process.kill_at and process.is_at(statement_points(sys._getframe(2)))):
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


def _after(before: Callable[..., None], call: Callable[..., Any]) -> Callable[..., Any]:
    """``call``, which is preceded by ``before`` with the same arguments."""

    def both(*values: Any, **named: Any) -> Any:
        before(*values, **named)
        return call(*values, **named)

    return both


def _not_for_killed(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Says nothing of killed coroutines that await in a ``finally`` block."""

    def tell(said: Any) -> None:
        if "coroutine ignored GeneratorExit" not in str(said.exc_value):
            hook(said)

    return tell


class _NoAlarm:
    def ring(self) -> None:
        return

    close = quiet = ring


class Hooks(Protocol):
    """Is called at some places of the product's code, and may raise there."""

    setup: Setup

    def on_request(self, delivery: Delivery) -> None: ...
    def on_route(self, name: str, topic: str, payload: bytes) -> None: ...
    def on_digest(self, name: str, messages: Mapping[str, Any], *, redacts: bool) -> None: ...
    def on_report(self) -> None: ...


def _tell_digest(
    hooks: Hooks,
    routes: Sequence[route.RouteReader],
    name: str,
    topic: str,
    messages: Mapping[str, Any],
    batch: int,
) -> None:
    reader = next((one for one in routes if one.name == name), None)
    if reader is not None:
        hooks.on_digest(name, messages, redacts=bool(reader.route.redact))


@contextmanager
def simulated(loop: SimLoop, seed: int, hooks: Hooks | None = None) -> Iterator[None]:
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
        replace(app_client, "Network", SimNetwork)
        replace(session.ClientSession, "wait_connected", lambda *told: None)  # it would block the loop
        replace(pending_request, "random", chance)
        replace(database, "sqlite3", sqlite)
        replace(daemon, "gc", SimpleNamespace(collect=lambda: 0))
        replace(daemon, "give_back_free_memory", lambda: None)
        # Figures of this machine in the health message, whose length decides how much waits for the broker.
        replace(daemon, "memory_bytes", lambda pids: {"daemon": 50_000_000})
        replace(daemon, "temperature_c", lambda: None)
        replace(alerts, "quota_use", lambda root: None)
        replace(engine_process, "os", SimpleNamespace(environ={}))
        replace(knowledge_process, "Child", SimKnowledgeChild)
        replace(encryption, "os", SimpleNamespace(urandom=chance.randbytes))
        replace(renewal, "sync", _after(sync_outside, atomic_json.sync))
        replace(journal, "TIDY_S", (2.0, 600.0))
        replace(redactor, "LONG", 120)
        replace(redactor, "PAUSES_S", (0.1, 0.3, 1.0))
        if hooks is not None:
            replace(mqtt_client, "OUTBOX_BYTES", hooks.setup.outbox_bytes)
            for target, name, before in (
                (request_handler, "parse_request", lambda one, **told: hooks.on_request(one)),
                (
                    route.RouteReader,
                    "consider",
                    lambda of, topic, raw, *told: hooks.on_route(of.name, topic, raw),
                ),
                (router.RouteAnswers, "digest", lambda of, *told: _tell_digest(hooks, of.routes, *told)),
                (in_flight, "error_result", lambda *told: hooks.on_report()),
            ):
                replace(target, name, _after(before, getattr(target, name)))
        replace(sys, "unraisablehook", _not_for_killed(sys.unraisablehook))
        vfs.register()
        patches.callback(vfs.unregister)
        patches.callback(_close_all)
        yield
