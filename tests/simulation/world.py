"""A simulated world: brokers, nodes, senders, and the faults that happen to them."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import process_time as processor_time
from typing import Any

from edgeslm.errors import EdgeslmError
from edgeslm.node.daemon import Daemon
from tests.simulation import routes
from tests.simulation.apps import App, Ask
from tests.simulation.broker import NOT_AUTHORIZED, Broker, Message
from tests.simulation.disk import Disk, bit_of_a_row
from tests.simulation.engine import WORLD, EngineWorld, What
from tests.simulation.faults import Fault
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.loop import OUTSIDE, Killed, SimLoop
from tests.simulation.network import STAGES, WIRES, Wire
from tests.simulation.node import SimNode
from tests.simulation.patches import simulated
from tests.support.nodes import write_bundle

CONFIG = """
node: n0
broker: {{url: mqtt://b0}}
models: {{small: {{bundle: {bundle}, threads: 1}}}}
prepare: never
durability: {durability}
limits: {{queue: {queue}, request_timeout_s: 20}}
state_dir: {state}
tasks:
  say: {{kind: generate, model: small}}
"""

BAD_PAGES = 0.03
"""Share of the pages read in which a bad disk flips a bit."""
SETTLE_S = 400.0
"""Virtual seconds after the last fault within which everything must be idle."""


@dataclass
class Outcome:
    """``crashes`` counts kills of a node that held an unfinished message and recovered after it."""

    seed: int
    faults: Sequence[Fault]
    violations: list[Violation]
    crashes: int = 0
    kills: int = 0
    asks: int = 0
    results: int = 0
    forgotten: int = 0
    steps: int = 0
    seconds: float = 0.0
    processor_s: float = 0.0
    trace: list[str] = field(default_factory=list)
    points: Counter[tuple[str, int]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)


class _Log(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note(f"log {record.levelname.lower()}: {record.getMessage()}")


class World:
    """One run. ``bundle`` is the folder of the engines' model."""

    def __init__(self, seed: int, faults: Sequence[Fault], bundle: Path, root: Path, *, traced: bool) -> None:
        self.seed = seed
        self.loop = SimLoop()
        self.faults = faults
        self.chance = random.Random(f"{seed} world")
        self.traced = traced
        self.trace: deque[str] = deque(maxlen=4000)
        self.ledger = Ledger(self.loop, self.note)
        self.broker = Broker(
            lambda: self.loop.now, self.ledger, receive_maximum=self.chance.choice((1, 5, 20))
        )
        self.durability = self.chance.choice(("broker", "broker", "spool"))
        self.broker.saves_at_once = self.chance.random() < 0.5
        self.saves_every_s = self.chance.choice((0.1, 2.0))
        self.wire = Wire(self.loop, self.broker, random.Random(f"{seed} network"))
        self.disk = Disk(root)
        text = CONFIG.format(
            bundle=bundle, durability=self.durability, queue=self.chance.choice((4, 16, 64)), state=root
        )
        self.node = SimNode(self.loop, text.rstrip() + routes.CONFIG, self.disk)
        self.apps = [App(self.wire, f"app-{number}", self.ledger.got) for number in range(2)]
        self.engines = EngineWorld(
            random.Random(f"{seed} engines"),
            self._behave,
            self.ledger.ran,
            self.ledger.done,
            self.ledger.crashed,
        )
        self._next_engine_faults: deque[What] = deque()
        self._restarts = random.Random(f"{seed} restarts")
        self._disk_chance = random.Random(f"{seed} disk")
        self._cuts_power = False
        self._io_left: int | None = None
        self._disk_fault = 0
        self._held_at_kill = 0
        self.outcome = Outcome(seed, faults, self.ledger.violations)
        self.is_over = False

    def note(self, sentence: str) -> None:
        if self.traced:
            boot = self.node.boots if hasattr(self, "node") else 0
            self.trace.append(f"{self.loop.now - 1000:9.4f} [{boot}] {sentence}")

    # Wiring

    def _behave(self, text: str) -> What:
        return self._next_engine_faults.popleft() if self._next_engine_faults else "answer"

    def _started(self, daemon: Daemon) -> None:
        self.ledger.node_started(self.node, daemon)
        before = daemon.disconnected

        def disconnected() -> None:
            before()
            self.ledger.node_disconnected(daemon)

        daemon.disconnected = disconnected  # type: ignore[method-assign]
        renew = daemon.database._renew

        def renewed(error: Exception) -> None:
            renew(error)
            self.ledger.disk_failed()  # rows that were written after the bit was flipped may be lost too

        daemon.database._renew = renewed  # type: ignore[method-assign]

    def _killed(self) -> None:
        node = self.node
        process, daemon = node.process, node.daemon
        self.outcome.kills += 1
        held = self.ledger.unfinished()
        if held:
            self.outcome.crashes += 1
        if process is not None:
            for point in {*process.points(), *process.killed_at}:
                self.outcome.points[point] += 1
        self.note(f"the node is killed, {held} unfinished")
        self._io_left = None
        self.ledger.node_killed(daemon)
        self.wire.cut_later(node.client)
        if self._cuts_power:
            self._cuts_power = False
            self.note("with a power cut")
            self.ledger.power_cut()
            self.disk.cut_power(self._disk_chance)
        delay_s = self._restarts.choice((0.01, 0.1, 0.5, 2.0)) * self._restarts.uniform(0.5, 1.5)
        self.loop.call_later(delay_s, self._restart, context=OUTSIDE)

    def _ended(self, failure: BaseException | None) -> None:
        self.note(f"the node ended ({failure})")
        if failure is not None and not isinstance(failure, EdgeslmError):
            self.ledger.violation("exception", f"the node ended: {failure!r}")
        self._io_left = None
        self.ledger.node_killed(None)
        self.wire.cut_later(self.node.client)
        self.loop.call_later(1.0, self._restart, context=OUTSIDE)

    def _restart(self) -> None:
        if self.is_over:
            return
        self.note("the node starts")
        self.node.start()

    def _io_fault(self, operation: str) -> int:
        if self._io_left is not None and operation != "read":
            self._io_left -= 1
            if self._io_left <= 0:
                self._io_left = None
                self.note(f"killed at a {operation}")
                self.node.kill()
                return 10
        if self._disk_fault and operation != "read":
            self.ledger.disk_failed()
            return self._disk_fault
        return 0

    def _accept_writes(self) -> None:
        self._disk_fault, self.ledger.refused_since = 0, None

    def _spoil(self, page: bytes) -> int | None:
        if self._disk_chance.random() >= BAD_PAGES:
            return None
        bit = bit_of_a_row(page, self._disk_chance)
        if bit is not None:
            self.note(f"the disk flips bit {bit} of a page")
            self.ledger.disk_flipped()
        return bit

    # Faults

    def _apply(self, fault: Fault) -> None:
        self.note(f"fault {fault}")
        kind, amount = fault.kind, fault.amount
        process = self.node.process
        if kind == "kill" and self.node.is_up and process is not None:
            process.kill_in = int(amount)
        elif kind == "kill_statement" and self.node.is_up and process is not None:
            process.kill_in_statements = int(amount)
        elif kind in ("kill_io", "power_cut") and self.node.is_up:
            self._io_left = int(amount)
            self._cuts_power = kind == "power_cut"
        elif kind == "broker_kill" and self.broker.is_up:
            self.broker.kill()
            self.wire.cut()
            self.loop.call_later(amount, self.broker.start)
        elif kind == "broker_stop" and self.broker.is_up:
            self.broker.save()
            self.broker.kill()
            self.wire.cut()
            self.loop.call_later(amount, self.broker.start)
        elif kind == "cut_node":
            self.wire.cut(self.node.client)
        elif kind == "cut_app":
            self.wire.cut(self.apps[int(amount * len(self.apps)) % len(self.apps)].name)
        elif kind == "cut_all":
            self.wire.cut()
        elif kind == "partition":
            name = self.node.client
            self.wire.partitioned.add(name)
            self.wire.cut(name)
            self.loop.call_later(amount, self.wire.partitioned.discard, name)
        elif kind == "flap":
            code = self.chance.choice((None, 0x8B, 0x82, 0x81))
            self.wire.flaps = lambda client: (
                (self.wire.chance.uniform(0, 0.03), code) if client == self.node.client else None
            )
            self.wire.cut(self.node.client)
            self.loop.call_later(amount, setattr, self.wire, "flaps", lambda client: None)
        elif kind == "close_early":
            closing = self.chance.choice(STAGES), self.chance.choice((None, 0x8B, 0x82, 0x81))
            self.wire.closes = lambda client: closing if client == self.node.client else None
            self.wire.cut(self.node.client)
            self.loop.call_later(amount, setattr, self.wire, "closes", lambda client: None)
        elif kind == "refuse_subscription":
            self.broker.refuses = lambda client, action, topic: (
                NOT_AUTHORIZED if action == "subscribe" and client == self.node.client else 0
            )
            self.loop.call_later(amount, setattr, self.broker, "refuses", lambda *told: 0)
        elif kind == "refuse_result":
            self.broker.refuses = lambda client, action, topic: (
                NOT_AUTHORIZED
                if action == "publish"
                and client == self.node.client
                and ("/res/" in topic or topic.startswith("out/"))
                else 0
            )
            self.loop.call_later(amount, setattr, self.broker, "refuses", lambda *told: 0)
        elif kind == "stop":
            self.node.stop()
        elif kind == "engine":
            kinds: tuple[What, ...] = ("crash", "crash", "frame", "slow", "fail", "hang")
            self._next_engine_faults.append(kinds[int(amount * len(kinds)) % len(kinds)])
        elif kind in ("disk_full", "disk_error"):
            self._disk_fault = 13 if kind == "disk_full" else 778
            self.ledger.refused_since = self.loop.now
            self.loop.call_later(amount, self._accept_writes)
        elif kind == "bad_pages":
            self.disk.spoil = self._spoil
            self.loop.call_later(amount, setattr, self.disk, "spoil", lambda page: None)
        elif kind == "clock":
            self.loop.wall_offset_s += amount
        elif kind == "slow_network":
            self.wire.delay_s = 1.0
            self.loop.call_later(amount, setattr, self.wire, "delay_s", 0.02)

    # The run

    async def _main(self, within_s: float, asks: int) -> None:
        loop = self.loop
        self.node.on_start = self._started
        self.node.on_killed = self._killed
        self.node.on_ended = self._ended
        self.disk.fault = self._io_fault
        WORLD.append(self.engines)
        WIRES["b0"] = self.wire
        self.ledger.nodes[self.node.client] = self.node
        self.ledger.filters = lambda: {
            one
            for name, session in self.broker.sessions.items()
            if name in self.ledger.nodes
            for one in session.filters
        }
        works = [loop.create_task(work) for app in self.apps for work in (app.run(), app.repeat())]
        if not self.broker.saves_at_once:
            works.append(loop.create_task(self._save()))
        works.append(loop.create_task(self._check()))
        self.node.start()
        for fault in self.faults:
            loop.call_at(1000.0 + fault.at, self._apply, fault)
        for number in range(asks):
            loop.call_at(1000.0 + self.chance.uniform(0.1, within_s), self._ask, number)
        for number in range(asks // 2):
            loop.call_at(1000.0 + self.chance.uniform(0.1, within_s), self._tell, number)
        await asyncio.sleep(within_s + 5.0)
        self._heal()
        await self._settle()
        self.is_over = True
        self.ledger.finish(self)
        for app in self.apps:
            app.is_closed = True
        for work in works:
            work.cancel()

    def _heal(self) -> None:
        self.note("faults end")
        process = self.node.process
        if process is not None:
            process.kill_in = process.kill_in_statements = None
        self._io_left, self._disk_fault = None, 0
        self.disk.spoil = lambda page: None
        self._next_engine_faults.clear()
        self.broker.refuses = lambda *told: 0
        self.wire.partitioned.clear()
        self.wire.flaps = lambda client: None
        self.wire.closes = lambda client: None
        self.wire.delay_s = 0.02

    async def _settle(self) -> None:
        give_up_at = self.loop.now + SETTLE_S
        while self.loop.now < give_up_at:
            await asyncio.sleep(1.0)
            if self.ledger.is_idle(self):
                return
        self.ledger.violation("liveness", self.ledger.why_busy(self))

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(self.saves_every_s)
            if self.broker.is_up:
                self.broker.save()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            self.ledger.check_bounds(self)

    def _ask(self, number: int) -> None:
        chance = self.chance
        app = chance.choice(self.apps)
        name, topic = f"r{number}", f"{self.node.topics.base}/req/say"
        repeats, expiry_s = chance.random() < 0.5, chance.choice((None, None, None, 3.0, 30.0))
        ask = Ask(name, f"text {number}", topic, app.name, app.reply_to, repeats, expiry_s)
        ask.streams = chance.random() < 0.3
        self.ledger.add(ask)
        app.ask(ask)

    def _tell(self, number: int) -> None:
        """Sends a message for the routes, a correction, or an event that completes windows."""
        app = self.chance.choice(self.apps)
        what = self.chance.choices("abfc", weights=(6, 6, 5, 1))[0]
        if what == "f":
            ask = routes.correction_of(number, self.node.topics.feedback, app.name)
        elif what == "c":
            ask = routes.close_of(number, app.name)
        else:
            ask = routes.note_of(number, what, app.name)
        self.ledger.add(ask)
        app.ask(ask)

    def run(self, within_s: float, asks: int) -> Outcome:
        began_at = processor_time()
        log = logging.getLogger("edgeslm")
        handler = _Log(self)
        level, propagate = log.level, log.propagate
        log.propagate = False
        if self.traced:
            log.addHandler(handler)
            log.setLevel(logging.DEBUG)
        else:
            log.setLevel(logging.CRITICAL)
        try:
            with simulated(self.loop, self.seed):
                self.loop.run_until_complete(self._main(within_s, asks))
                self.node.on_killed = lambda: None
                self.node.kill()
                for _ in range(5):
                    self.loop.run_until_complete(asyncio.sleep(0.01))
        except Exception as error:
            self.ledger.violation("progress", f"{type(error).__name__}: {error}")
            if not isinstance(error, RuntimeError):
                raise
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate
            self.disk.remove()
            WORLD.clear()
            WIRES.clear()
        self._look_at_errors()
        self.loop._ready.clear()  # type: ignore[attr-defined]
        self.loop._scheduled.clear()  # type: ignore[attr-defined]
        self.loop.close()
        self.outcome.trace = list(self.trace)
        self.outcome.steps = self.loop.steps
        self.outcome.seconds = self.loop.now - 1000.0
        self.outcome.processor_s = processor_time() - began_at
        self.ledger.count(self.outcome)
        return self.outcome

    def _look_at_errors(self) -> None:
        for context in self.loop.errors:
            error = context.get("exception")
            # Reported when the garbage is collected, so not by the same seed each time.
            is_harmless = isinstance(error, EdgeslmError | asyncio.CancelledError)
            is_late = "never retrieved" in str(context.get("message")) and is_harmless
            if not is_late and not isinstance(error, Killed):
                self.ledger.violation("exception", f"{context.get('message')}: {error!r}")


def play(
    seed: int, faults: Sequence[Fault], *, within_s: float = 30.0, asks: int = 80, traced: bool = False
) -> Outcome:
    """Runs a seed with these faults."""
    with tempfile.TemporaryDirectory(dir=_memory(), prefix="edgeslm-simulation-") as folder:
        bundle = write_bundle(Path(folder) / "bundle")
        state = Path(folder) / "n0"
        state.mkdir(mode=0o700)
        return World(seed, faults, bundle, state, traced=traced).run(within_s, asks)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


__all__ = ["Any", "Message", "Outcome", "World", "json", "play"]
