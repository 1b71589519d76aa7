"""A simulated pool: two dispatchers, three nodes, a broker, apps, and the faults that happen to them."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time as processor_time
from typing import Final
from unittest import mock

from edgeslm.dispatcher import standby
from edgeslm.dispatcher.nodes import NodeSide
from edgeslm.errors import EdgeslmError
from edgeslm.node.daemon import Waits
from edgeslm.protocol.topics import Topics
from tests.simulation import asks
from tests.simulation.apps import App, Ask
from tests.simulation.broker import Broker
from tests.simulation.disk import Disk
from tests.simulation.engine import WORLD, EngineWorld, What
from tests.simulation.faults import Fault
from tests.simulation.loop import OUTSIDE, Killed, Place, SimLoop
from tests.simulation.network import WIRES, Wire
from tests.simulation.node import Program, SimDispatcher, SimNode
from tests.simulation.others import OtherNodes
from tests.simulation.outcome import Outcome
from tests.simulation.patches import simulated, statement_points
from tests.simulation.places import POOL_MODULES, all_places
from tests.simulation.pool_ledger import PoolLedger
from tests.simulation.setup import Setup
from tests.support.nodes import write_bundle

NODE = """
node: {name}
broker: {{url: mqtt://b0}}
models: {{small: {{bundle: {folder}/bundle, threads: 1}}}}
prepare: never
state_dir: {folder}/{name}
tasks: {{say: {{kind: generate, model: small}}}}
pool: {{name: fast, tasks: [say], by: dispatcher}}
"""
DISPATCHER = """
pool: fast
broker: {{url: mqtt://b0}}
name: {name}
limits: {{queue: {queue}, node_queue: 2, request_timeout_s: 20}}
lease_s: 3
state_dir: {folder}/{name}
"""
NODES, DISPATCHERS = ("n0", "n1", "n2"), ("d0", "d1")
KINDS: Final = {
    "kill": 30,
    "kill_statement": 15,
    "kill_io": 10,
    "power_cut": 8,
    "kill_place": 20,
    "broker_kill": 3,
    "broker_stop": 2,
    "cut": 14,
    "cut_all": 3,
    "partition": 5,
    "stop": 6,
    "engine": 12,
    "disk_full": 3,
    "slow_network": 2,
}
"""Kind of a fault and how often it is drawn."""
TARGETS = (*DISPATCHERS, *DISPATCHERS, *NODES)
SETTLE_S = 400.0
VISITS = (1, 1, 1, 3, 10)
"""Visits of a place at which a dispatcher is killed there."""


class _Log(logging.Handler):
    def __init__(self, world: PoolWorld) -> None:
        super().__init__(logging.DEBUG)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.note(f"log {record.levelname.lower()}: {record.getMessage()}")


def draw(seed: int, count: int, within_s: float) -> list[Fault]:
    """Faults of a seed. The amount of each is between 0 and 1, and draws the program that it concerns too."""
    chance = random.Random(f"{seed} pool faults")
    kinds = chance.choices(list(KINDS), weights=list(KINDS.values()), k=count)
    faults = [
        Fault(round(chance.uniform(0.3, within_s), 3), kind, round(chance.random(), 6)) for kind in kinds
    ]
    return sorted(faults, key=lambda fault: fault.at)


class PoolWorld:
    """One run. ``folder`` is an empty folder for the bundle, the configurations and what is stored. With
    ``place``, dispatchers are killed there instead of at drawn places."""

    def __init__(
        self, seed: int, faults: Sequence[Fault], folder: Path, *, traced: bool, place: Place | None = None
    ) -> None:
        self.seed = seed
        self.faults = faults
        self.traced = traced
        self.place = place
        self.trace: deque[str] = deque(maxlen=4000)
        self.loop = loop = SimLoop()
        self.chance = chance = random.Random(f"{seed} pool")
        write_bundle(folder / "bundle")
        queue = chance.choice((4, 16, 64))
        for name in (*NODES, *DISPATCHERS):
            text = (NODE if name in NODES else DISPATCHER).format(name=name, folder=folder, queue=queue)
            (folder / f"{name}.yaml").write_text(text)
            (folder / name).mkdir(mode=0o700)
        self.dispatchers = [
            SimDispatcher(loop, folder / f"{one}.yaml", Disk(folder / one)) for one in DISPATCHERS
        ]
        others = random.Random(f"{seed} others")
        self.nodes = [
            SimNode(loop, folder / f"{one}.yaml", Disk(folder / one), OtherNodes(others)) for one in NODES
        ]
        self.programs: dict[str, Program] = {one.name: one for one in (*self.dispatchers, *self.nodes)}
        self.client = self.dispatchers[0].client
        self.ledger = PoolLedger(loop, self.note, self.client)
        self.ledger.leader = self._leader
        self.broker = Broker(lambda: loop.now, self.ledger, receive_maximum=chance.choice((5, 20)))
        self.broker.saves_at_once = chance.random() < 0.5
        self.wire: Wire = Wire(loop, self.broker, random.Random(f"{seed} network"))
        self.topics = Topics.of_pool("fast")
        self.apps = [App(self.wire, f"app-{number}", self.ledger.got) for number in range(2)]
        self.engines = EngineWorld(
            random.Random(f"{seed} engines"), self._behave, self.ledger.ran, on_kill=self._kill_node
        )
        self.next_engine_faults: deque[What] = deque()
        self.outcome = Outcome(seed, faults, self.ledger.violations)
        self.is_over = False
        self._io_left: dict[str, int] = {}
        self._refuses: dict[str, int] = {}
        self._cuts_power: set[str] = set()
        self._restarts = random.Random(f"{seed} restarts")
        self._disk_chance = random.Random(f"{seed} disk")
        for program in self.programs.values():
            self._watch(program)

    def note(self, sentence: str) -> None:
        if self.traced:
            self.trace.append(f"{self.loop.now - 1000:9.4f} {sentence}")

    def _leader(self) -> SimDispatcher | None:
        owner = getattr(self.broker._links.get(self.client), "owner", None)
        return next((one for one in self.dispatchers if owner is not None and one.process is owner), None)

    # Programs

    def _watch(self, program: Program) -> None:
        name = program.name
        program.on_killed = lambda: self._killed(program)
        program.on_ended = lambda failure: self._ended(program, failure)
        program.disk.fault = lambda operation: self._io_fault(name, operation)
        if isinstance(program, SimNode):
            program.waits = Waits(health_every_s=2.0)

    def _killed(self, program: Program) -> None:
        process, held = program.process, self.ledger.unfinished()
        self.outcome.kills += 1
        self.outcome.crashes += held > 0
        if process is not None:
            for point in {*process.points(), *process.killed_at}:
                self.outcome.points[point] += 1
        self.note(f"{program.name} is killed, {held} unfinished")
        self._io_left.pop(program.name, None)
        self.wire.cut_later(process)
        if program.name in self._cuts_power:
            self._cuts_power.discard(program.name)
            self.note("with a power cut")
            self.ledger.disk_trouble_at[program.name] = self.loop.now
            program.disk.cut_power(self._disk_chance)
        delay_s = self._restarts.choice((0.01, 0.5, 2.0, 8.0)) * self._restarts.uniform(0.5, 1.5)
        self.loop.call_later(delay_s, self._restart, program, context=OUTSIDE)

    def _ended(self, program: Program, failure: BaseException | None) -> None:
        self.note(f"{program.name} ended ({failure})")
        if failure is not None and not isinstance(failure, EdgeslmError):
            self.ledger.violation("exception", f"{program.name} ended: {failure!r}")
        self._io_left.pop(program.name, None)
        self.wire.cut_later(program.process)
        self.loop.call_later(1.0, self._restart, program, context=OUTSIDE)

    def _restart(self, program: Program) -> None:
        if not self.is_over:
            self.note(f"{program.name} starts")
            program.start()

    def _io_fault(self, name: str, operation: str) -> int:
        if operation == "read":
            return 0
        if name in self._io_left:
            self._io_left[name] -= 1
            if self._io_left[name] <= 0:
                del self._io_left[name]
                process = self.programs[name].process
                if process is not None:
                    process.killed_at = [*statement_points(sys._getframe())]
                self.programs[name].kill()
                return 10
        if self._refuses.get(name):
            self.ledger.disk_trouble_at[name] = self.loop.now
        return self._refuses.get(name, 0)

    def _behave(self, text: str) -> What:
        ask = self.ledger.by_text.get(text)
        if ask is not None and ask.engine:
            return ask.engine.pop(0) if ask.engine[0] != "long" else "long"
        return self.next_engine_faults.popleft() if self.next_engine_faults else "answer"

    def _kill_node(self, name: str) -> None:
        self.ledger.killed_by_run(name)
        self.programs[name].kill()

    # Faults

    def _apply(self, fault: Fault) -> None:
        self.note(f"fault {fault}")
        name = TARGETS[int(fault.amount * len(TARGETS)) % len(TARGETS)]
        rest = fault.amount * len(TARGETS) % 1.0
        effect: Callable[[str, float], None] = getattr(self, f"_{fault.kind}")
        effect(name, rest)

    def _kill(self, name: str, amount: float) -> None:
        if (process := self.programs[name].process) is not None:
            process.kill_in = 1 + int(400 * amount)

    def _kill_statement(self, name: str, amount: float) -> None:
        if (process := self.programs[name].process) is not None:
            process.kill_in_statements = 1 + int(60 * amount)

    def _kill_io(self, name: str, amount: float) -> None:
        if self.programs[name].is_up:
            self._io_left[name] = 1 + int(60 * amount)

    def _power_cut(self, name: str, amount: float) -> None:
        if self.programs[name].is_up:
            self._io_left[name] = 1 + int(60 * amount)
            self._cuts_power.add(name)

    def _kill_place(self, name: str, amount: float) -> None:
        places = [self.place] if self.place is not None else all_places(POOL_MODULES)
        place = places[int(amount * len(places)) % len(places)]
        for program in self.dispatchers:
            program.kill_at[place] = VISITS[int(amount * 1000) % len(VISITS)]

    def _broker_kill(self, name: str, amount: float) -> None:
        if self.broker.is_up:
            self.broker.kill()
            self.wire.cut()
            self.loop.call_later(0.05 + 4 * amount, self.broker.start)

    def _broker_stop(self, name: str, amount: float) -> None:
        if self.broker.is_up:
            self.broker.save()
        self._broker_kill(name, amount)

    def _client(self, amount: float) -> str:
        names = [self.client, f"{self.client}.nodes", *(node.client for node in self.nodes), "app-0", "app-1"]
        return names[int(amount * len(names)) % len(names)]

    def _cut(self, name: str, amount: float) -> None:
        self.wire.cut(self._client(amount))

    def _cut_all(self, name: str, amount: float) -> None:
        self.wire.cut()

    def _partition(self, name: str, amount: float) -> None:
        client = self._client(amount)
        self.wire.partitioned.add(client)
        self.wire.cut(client)
        self.loop.call_later(8 * amount, self.wire.partitioned.discard, client)

    def _stop(self, name: str, amount: float) -> None:
        program = self.programs[name]
        if isinstance(program, SimNode | SimDispatcher):
            program.stop()

    def _engine(self, name: str, amount: float) -> None:
        kinds: tuple[What, ...] = ("crash", "frame", "slow", "slow", "fail", "hang")
        self.next_engine_faults.append(kinds[int(amount * len(kinds)) % len(kinds)])

    def _disk_full(self, name: str, amount: float) -> None:
        self._refuses[name] = 13
        self.loop.call_later(6 * amount, self._accept_writes, name)

    def _accept_writes(self, name: str) -> None:
        self._refuses.pop(name, None)
        self.ledger.disk_trouble_at[name] = self.loop.now  # its last results may be only in its memory

    def _slow_network(self, name: str, amount: float) -> None:
        self.wire.delay_s = 1.0
        self.loop.call_later(3 * amount, setattr, self.wire, "delay_s", 0.02)

    def _heal(self) -> None:
        self.note("faults end")
        for program in self.programs.values():
            if program.process is not None:
                program.process.kill_in = program.process.kill_in_statements = None
            program.kill_at.clear()
            self._accept_writes(program.name)
        self._io_left.clear()
        self.next_engine_faults.clear()
        self.wire.partitioned.clear()
        self.wire.delay_s = 0.02

    # The run

    async def _main(self, within_s: float, count: int) -> None:
        loop = self.loop
        WORLD.append(self.engines)
        WIRES["b0"] = self.wire
        works = [loop.create_task(work) for app in self.apps for work in (app.run(), app.repeat())]
        if not self.broker.saves_at_once:
            works.append(loop.create_task(self._save()))
        for program in self.programs.values():
            program.start()
        for fault in self.faults:
            loop.call_at(1000.0 + fault.at, self._apply, fault)
        for number in range(count):
            loop.call_at(1000.0 + self.chance.uniform(0.1, within_s), self._ask, number)
        await asyncio.sleep(within_s + 5.0)
        self._heal()
        give_up_at = loop.now + SETTLE_S
        while (busy := self.ledger.why_busy(self)) and loop.now < give_up_at:
            self._check()
            await asyncio.sleep(0.5)
        if busy:
            self.ledger.violation("liveness", busy)
        self.is_over = True
        self.ledger.finish()
        for app in self.apps:
            app.is_closed = True
        for work in works:
            work.cancel()

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(2.0)
            if self.broker.is_up:
                self.broker.save()

    def _check(self) -> None:
        for dispatcher in self.dispatchers:
            self.ledger.check_bounds(dispatcher)

    def _ask(self, number: int) -> None:
        ask = asks.request(number, self.chance, self.chance.choice(self.apps), Setup(), self.topics)
        if ask.topic.endswith("/rate"):
            ask.error = "unknown_task"
        self._send(ask)
        self._check()
        if self.chance.random() < 0.08:
            cancellation = asks.cancellation(ask, self.topics)
            self.loop.call_later(self.chance.choice((0.0, 0.05, 1.0)), self._send, cancellation)

    def _send(self, ask: Ask) -> None:
        if self.is_over:
            return
        if ask.cancels is None:
            self.ledger.add(ask)
        next(app for app in self.apps if app.name == ask.app).ask(ask)

    def run(self, within_s: float, count: int) -> Outcome:
        began_at = processor_time()
        log, handler = logging.getLogger("edgeslm"), _Log(self)
        level, propagate = log.level, log.propagate
        log.propagate = False
        log.addHandler(handler)
        log.setLevel(logging.DEBUG if self.traced else logging.CRITICAL)
        submit = NodeSide.submit

        def submitted(side: NodeSide, order: object) -> None:
            self.ledger.submitted(order)  # type: ignore[arg-type]
            submit(side, order)  # type: ignore[arg-type]

        try:
            with (
                simulated(self.loop, self.seed),
                mock.patch.object(NodeSide, "submit", submitted),
                mock.patch.object(standby, "random", random.Random(f"{self.seed} standby")),
            ):
                self.loop.run_until_complete(self._main(within_s, count))
                for program in self.programs.values():
                    program.on_killed = lambda: None
                    program.kill()
                for _ in range(5):
                    self.loop.run_until_complete(asyncio.sleep(0.01))
        finally:
            log.removeHandler(handler)
            log.setLevel(level)
            log.propagate = propagate
            for program in self.programs.values():
                program.disk.remove()
            WORLD.clear()
            WIRES.clear()
        self._look_at_errors()
        self.loop._ready.clear()  # type: ignore[attr-defined]
        self.loop._scheduled.clear()  # type: ignore[attr-defined]
        self.loop.close()
        outcome = self.outcome
        outcome.trace, outcome.steps = list(self.trace), self.loop.steps
        outcome.seconds, outcome.processor_s = self.loop.now - 1000.0, processor_time() - began_at
        outcome.asks, outcome.codes = len(self.ledger.asks), self.ledger.codes
        outcome.results = sum(bool(ask.results) for ask in self.ledger.asks.values())
        outcome.forgotten = sum(not ask.is_ended and ask.forgotten > 0 for ask in self.ledger.asks.values())
        return outcome

    def _look_at_errors(self) -> None:
        for context in self.loop.errors:
            error = context.get("exception")
            is_harmless = isinstance(error, EdgeslmError | asyncio.CancelledError)
            is_late = "never retrieved" in str(context.get("message")) and is_harmless
            if not is_late and not isinstance(error, Killed):
                self.ledger.violation("exception", f"{context.get('message')}: {error!r}")


def play(
    seed: int,
    faults: Sequence[Fault],
    *,
    within_s: float,
    asks: int,
    traced: bool = False,
    place: Place | None = None,
) -> Outcome:
    """Runs a seed with these faults."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="edgeslm-simulation-") as folder:
        return PoolWorld(seed, faults, Path(folder), traced=traced, place=place).run(within_s, asks)
