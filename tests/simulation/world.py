"""A simulated world: brokers, nodes, senders, and the faults that happen to them."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import process_time as processor_time
from typing import Any

from edgeslm.errors import EdgeslmError
from edgeslm.knowledge.index.queries import Memory
from edgeslm.node.daemon import Daemon, Waits
from tests.simulation import asks
from tests.simulation.apps import App, Ask
from tests.simulation.broker import Broker, Message
from tests.simulation.bugs import Bugs
from tests.simulation.disk import Disk, bit_of_a_row
from tests.simulation.effects import EFFECTS, arm_next
from tests.simulation.engine import BROKEN, GLINER, WORLD, EngineWorld, What
from tests.simulation.faults import Fault
from tests.simulation.knowledge import KNOWLEDGE, KnowledgeWorld
from tests.simulation.ledger import Ledger
from tests.simulation.library import LibraryApp
from tests.simulation.loop import OUTSIDE, Killed, Place, SimLoop
from tests.simulation.network import WIRES, Wire
from tests.simulation.node import SimNode
from tests.simulation.others import OtherNodes
from tests.simulation.outcome import Outcome
from tests.simulation.patches import simulated, statement_points
from tests.simulation.setup import Change, Setup
from tests.support.nodes import write_bundle, write_zero_shot

HEALTH_EVERY_S = 2.0
SETTLE_S = 400.0
"""Virtual seconds after the last fault within which everything must be idle."""


class _Log(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note(f"log {record.levelname.lower()}: {record.getMessage()}")


class World:
    """One run. ``folder`` is an empty folder for the bundles, the configuration and the node's state.

    With ``place``, nodes are killed there instead of at drawn places.
    """

    def __init__(
        self,
        seed: int,
        faults: Sequence[Fault],
        folder: Path,
        *,
        traced: bool,
        setup: Setup | None = None,
        place: Place | None = None,
    ) -> None:
        self.seed = seed
        self.loop = SimLoop()
        self.faults = faults
        self.folder = folder
        self.place = place
        self.chance = random.Random(f"{seed} world")
        self.setup = setup or Setup.draw(random.Random(f"{seed} setup"))
        self.traced = traced
        self.trace: deque[str] = deque(maxlen=4000)
        self.ledger = Ledger(self.loop, self.note)
        self.ledger.keeps_answers, self.ledger.has_names = self.setup.keeps_answers, self.setup.has_names
        self.broker = self._make_broker()
        self.wire: Wire = Wire(self.loop, self.broker, random.Random(f"{seed} network"))
        self._write_files(random.Random(f"{seed} key"))
        self.disk = Disk(folder / "n0")
        self.write_config("same")
        others = OtherNodes(random.Random(f"{seed} others"))
        self.node: SimNode = SimNode(self.loop, folder / "node.yaml", self.disk, others)
        self.node.waits = Waits(health_every_s=HEALTH_EVERY_S)
        self.apps = [App(self.wire, f"app-{number}", self.ledger.got) for number in range(2)]
        self.engines = EngineWorld(
            random.Random(f"{seed} engines"),
            self._behave,
            self.ledger.ran,
            self.ledger.done,
            self.ledger.crashed,
            lambda node: self.node.kill(),
        )
        self.engines.finds = lambda: self.names_fault
        self.knowledge = KnowledgeWorld(random.Random(f"{seed} knowledge"), self._keep_memory)
        self.knowledge.on_stored = self.ledger.routes.remembered
        self.knowledge.refuses_starts = self.setup.refuses_collections
        self.library: LibraryApp | None = None
        self.names_fault: What = "answer"
        self.next_engine_faults: deque[What] = deque()
        self.bugs = Bugs(self)
        self._restarts = random.Random(f"{seed} restarts")
        self._disk_chance = random.Random(f"{seed} disk")
        self.cuts_power = False
        self.io_left: int | None = None
        """Number of further operations of the disk after which the node is killed."""
        self.disk_fault = 0
        self.outcome = Outcome(seed, faults, self.ledger.violations)
        self.is_over = False
        self.check_every_s = 0.25

    def _make_broker(self) -> Broker:
        setup = self.setup
        broker = Broker(lambda: self.loop.now, self.ledger, receive_maximum=setup.receive_maximum)
        broker.saves_at_once, broker.forgets_all = setup.saves_at_once, setup.has_equal
        broker.speaks_mqtt5, broker.takes_lowest_mids = setup.mqtt5, setup.lowest_mids
        return broker

    def _write_files(self, chance: random.Random) -> None:
        folder = self.folder
        write_bundle(folder / "bundle")
        write_bundle(folder / "other", weights=b"other weights")
        write_bundle(folder / "broken", weights=BROKEN)
        write_zero_shot(folder / "names", GLINER)
        (folder / "key").write_bytes(chance.randbytes(32))
        (folder / "n0").mkdir(mode=0o700)

    def write_config(self, change: Change) -> None:
        (self.folder / "node.yaml").write_text(self.setup.text(self.folder, change))

    def note(self, sentence: str) -> None:
        if self.traced:
            boot = self.node.boots if hasattr(self, "node") else 0
            self.trace.append(f"{self.loop.now - 1000:9.4f} [{boot}] {sentence}")

    # Wiring

    def _behave(self, text: str) -> What:
        ask = self.ledger.by_text.get(text)
        what: What = "answer"
        if ask is not None and ask.engine:
            what = ask.engine.pop(0) if ask.engine[0] != "long" else "long"
        elif self.next_engine_faults:
            what = self.next_engine_faults.popleft()
        if ask is not None and what in ("hang", "slow"):
            ask.lose_points()
        return what

    def _keep_memory(self, memory: Memory) -> str:
        found = self.knowledge.chance.random()
        return "end" if found < 0.03 else "refuse" if found < 0.06 else ""

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
        abandon = daemon._pipeline.abandon

        def abandoned() -> None:
            abandon()
            self.ledger.node_abandoned()

        daemon._pipeline.abandon = abandoned  # type: ignore[method-assign]

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
        self.io_left = None
        self.ledger.node_killed(daemon)
        self.wire.cut_later(process)
        if self.cuts_power:
            self.cuts_power = False
            self.note("with a power cut")
            self.ledger.power_cut()
            self.disk.cut_power(self._disk_chance)
        delay_s = self._restarts.choice((0.01, 0.1, 0.5, 2.0)) * self._restarts.uniform(0.5, 1.5)
        self.loop.call_later(delay_s, self._restart, context=OUTSIDE)

    def _ended(self, failure: BaseException | None) -> None:
        self.note(f"the node ended ({failure})")
        if failure is not None and not isinstance(failure, EdgeslmError):
            self.ledger.violation("exception", f"the node ended: {failure!r}")
        self.io_left = None
        self.ledger.node_killed(None)
        self.wire.cut_later(self.node.process)
        self.loop.call_later(1.0, self._restart, context=OUTSIDE)

    def _restart(self) -> None:
        if self.is_over:
            return
        self.note("the node starts")
        self.node.start()

    def _io_fault(self, operation: str) -> int:
        if self.io_left is not None and operation != "read":
            self.io_left -= 1
            if self.io_left <= 0:
                self.io_left = None
                self.note(f"killed at a {operation}")
                if self.node.process is not None:
                    self.node.process.killed_at = [*statement_points(sys._getframe())]
                self.node.kill()
                return 10
        if self.disk_fault and operation != "read":
            self.ledger.disk_failed()
            return self.disk_fault
        return 0

    def accept_writes(self) -> None:
        self.disk_fault, self.ledger.refused_since = 0, None
        self.ledger.disk_failed()  # what the node sent up to now may be only in its memory

    def spoil(self, page: bytes) -> int | None:
        if self._disk_chance.random() >= self.setup.bad_pages:
            return None
        bit = bit_of_a_row(page, self._disk_chance)
        if bit is not None:
            self.note(f"the disk flips bit {bit} of a page")
            self.ledger.disk_flipped()
        return bit

    # Faults

    def _apply(self, fault: Fault) -> None:
        self.note(f"fault {fault}")
        EFFECTS[fault.kind](self, fault.amount)

    # The run

    async def _main(self, within_s: float, asks: int) -> None:
        loop = self.loop
        self.node.on_start = self._started
        self.node.on_killed = self._killed
        self.node.on_ended = self._ended
        self.disk.fault = self._io_fault
        WORLD.append(self.engines)
        KNOWLEDGE.append(self.knowledge)
        WIRES["b0"] = self.wire
        self.ledger.nodes[self.node.client] = self.node
        self.ledger.filters = lambda: {
            one
            for name, session in self.broker.sessions.items()
            if name in self.ledger.nodes
            for one in session.filters
        }
        works = [loop.create_task(work) for app in self.apps for work in (app.run(), app.repeat())]
        if not self.setup.saves_at_once and not self.setup.has_equal:
            works.append(loop.create_task(self._save()))
        works.append(loop.create_task(self._check()))
        arm_next(self)
        self.node.start()
        for fault in self.faults:
            loop.call_at(1000.0 + fault.at, self._apply, fault)
        for number in range(asks):
            loop.call_at(1000.0 + self.chance.uniform(0.1, within_s), self._ask, number)
        for number in range(asks // 2):
            loop.call_at(1000.0 + self.chance.uniform(0.1, within_s), self._tell, number)
        if self.setup.has_library and self.setup.mqtt5:  # the library needs MQTT 5
            self._start_library(within_s, asks // 2)
        await asyncio.sleep(within_s + 5.0)
        self._heal()
        await self._settle()
        self.is_over = True
        self.ledger.finish(self)
        if self.library is not None:
            self.library.close()
        for app in self.apps:
            app.is_closed = True
        for work in works:
            work.cancel()

    def _start_library(self, within_s: float, asks: int) -> None:
        chance = random.Random(f"{self.seed} library")
        self.library = library = LibraryApp(self.ledger, self.node.topics, chance)
        library.open()
        for _ in range(asks):
            self.loop.call_at(1000.0 + chance.uniform(0.1, within_s), library.ask)

    def _heal(self) -> None:
        self.note("faults end")
        process = self.node.process
        if process is not None:
            process.kill_in = process.kill_in_statements = None
        self.node.kill_at.clear()
        self.bugs.waiting.clear()
        self.write_config("same")
        self.io_left, self.disk_fault = None, 0
        self.disk.spoil = lambda page: None
        self.next_engine_faults.clear()
        self.names_fault = "answer"
        self.knowledge.refuses_starts = 0.0
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
            await asyncio.sleep(self.setup.saves_every_s)
            if self.broker.is_up:
                self.broker.save()

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(self.check_every_s)
            self.ledger.check_bounds(self)

    def _ask(self, number: int) -> None:
        ask = asks.request(number, self.chance, self.chance.choice(self.apps), self.setup, self.node.topics)
        self._send(ask)
        if self.chance.random() < 0.08:
            cancellation = asks.cancellation(ask, self.node.topics)
            self.loop.call_later(self.chance.choice((0.0, 0.05, 1.0)), self._send, cancellation)

    def _tell(self, number: int) -> None:
        """Sends a message for the routes, a correction, or an event that completes windows."""
        if self.setup.has_equal and self.chance.random() < 0.6:
            self._send(self.ledger.asks.get("same") or asks.same(self.apps[0].name))
            return
        self._send(asks.message(number, self.chance, self.chance.choice(self.apps), self.node.topics))

    def _send(self, ask: Ask) -> None:
        if self.is_over:
            return
        if ask.cancels is not None:
            self.ledger.asks[ask.cancels].lose_points()
        self.ledger.add(ask)
        next(app for app in self.apps if app.name == ask.app).ask(ask)

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
            with simulated(self.loop, self.seed, self.bugs):
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
            KNOWLEDGE.clear()
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
    seed: int,
    faults: Sequence[Fault],
    *,
    within_s: float = 30.0,
    asks: int = 80,
    traced: bool = False,
    place: Place | None = None,
) -> Outcome:
    """Runs a seed with these faults."""
    with tempfile.TemporaryDirectory(dir=memory(), prefix="edgeslm-simulation-") as folder:
        return World(seed, faults, Path(folder), traced=traced, place=place).run(within_s, asks)


def memory() -> str | None:
    """A folder in memory, if there is one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


__all__ = ["Any", "Message", "Outcome", "World", "json", "memory", "play"]
