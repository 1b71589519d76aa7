"""What each kind of fault does to a simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edgeslm.bundle.manifest import load_bundle
from edgeslm.errors import EdgeslmError, SelfTestError
from edgeslm.node.daemon import Daemon
from edgeslm.serving.deployment import Deployment
from edgeslm.update.store import Store
from tests.simulation.broker import NOT_AUTHORIZED
from tests.simulation.bugs import Bug
from tests.simulation.engine import BROKEN, What
from tests.simulation.faults import is_operated
from tests.simulation.loop import Place
from tests.simulation.network import STAGES
from tests.simulation.places import all_places, places_of
from tests.simulation.setup import CHANGES
from tests.support.nodes import write_bundle

if TYPE_CHECKING:
    from tests.simulation.world import World

VISITS: Final = (1, 1, 1, 2, 3)
"""At which visit of a place a node is killed."""
ARMED_AT_START: Final = 4
MOST_ARMED = 40
"""Number of places that wait for a visit at a time."""
CODES: Final = (None, 0x8B, 0x82, 0x81)
"""Reason codes with which a broker ends a connection; None if it just breaks."""


def kill(world: World, amount: float) -> None:
    if world.node.process is not None:
        world.node.process.kill_in = int(amount)


def kill_statement(world: World, amount: float) -> None:
    if world.node.process is not None:
        world.node.process.kill_in_statements = int(amount)


def kill_io(world: World, amount: float) -> None:
    if world.node.is_up:
        world.io_left = int(amount)


def power_cut(world: World, amount: float) -> None:
    if world.node.is_up:
        world.io_left, world.cuts_power = int(amount), True


def kill_place(world: World, amount: float) -> None:
    """At a visit of a place that is drawn, however rarely nodes come there."""
    places = [world.place] if world.place is not None else all_places()
    place = places[int(amount * len(places)) % len(places)]
    arm(world, place, VISITS[int(amount * 1000) % len(VISITS)])


def arm(world: World, place: Place, visit: int) -> None:
    """The node is killed at this visit of a place."""
    armed = world.node.kill_at
    while len(armed) >= MOST_ARMED:
        del armed[next(iter(armed))]
    armed[place] = visit


def arm_next(world: World) -> None:
    """Arms a few places from the start, in turn, so that some seed comes to each. In the seeds with an
    operator, these are places where deployments change."""
    if world.place is not None or not world.faults:
        return
    seed, places = world.seed, all_places()
    if is_operated(seed):
        seed, places = seed // 4, places_of("serving/service")
    for number in range(ARMED_AT_START * seed, ARMED_AT_START * (seed + 1)):
        arm(world, places[number % len(places)], VISITS[number % len(VISITS)])


def broker_kill(world: World, amount: float) -> None:
    if world.broker.is_up:
        world.broker.kill()
        world.wire.cut()
        world.loop.call_later(amount, world.broker.start)


def broker_stop(world: World, amount: float) -> None:
    if world.broker.is_up and not world.setup.has_equal:
        world.broker.save()
    broker_kill(world, amount)


def cut_app(world: World, amount: float) -> None:
    names = [app.name for app in world.apps] + ([world.library.name] if world.library is not None else [])
    world.wire.cut(names[int(amount * len(names)) % len(names)])


def partition(world: World, amount: float) -> None:
    name = world.node.client
    world.wire.partitioned.add(name)
    world.wire.cut(name)
    world.loop.call_later(amount, world.wire.partitioned.discard, name)


def flap(world: World, amount: float) -> None:
    code = world.chance.choice(CODES) if world.setup.mqtt5 else None
    world.wire.flaps = lambda client: (
        (world.wire.chance.uniform(0, 0.03), code) if client == world.node.client else None
    )
    world.wire.cut(world.node.client)
    world.loop.call_later(amount, setattr, world.wire, "flaps", lambda client: None)


def close_early(world: World, amount: float) -> None:
    closing = world.chance.choice(STAGES), world.chance.choice(CODES) if world.setup.mqtt5 else None
    world.wire.closes = lambda client: closing if client == world.node.client else None
    world.wire.cut(world.node.client)
    world.loop.call_later(amount, setattr, world.wire, "closes", lambda client: None)


def _refuse(world: World, amount: float, is_refused: Callable[[str, str], bool]) -> None:
    """With MQTT 3.1.1 a broker has no packet that refuses a message."""
    if world.setup.mqtt5:
        world.broker.refuses = lambda client, action, topic: (
            NOT_AUTHORIZED if client == world.node.client and is_refused(action, topic) else 0
        )
        world.loop.call_later(amount, setattr, world.broker, "refuses", lambda *told: 0)


def refuse_subscription(world: World, amount: float) -> None:
    _refuse(world, amount, lambda action, topic: action == "subscribe")


def refuse_result(world: World, amount: float) -> None:
    _refuse(
        world, amount, lambda action, topic: action == "publish" and ("/res/" in topic or topic[:4] == "out/")
    )


def engine(world: World, amount: float) -> None:
    kinds: tuple[What, ...] = ("crash", "crash", "frame", "slow", "fail", "hang")
    world.next_engine_faults.append(kinds[int(amount * len(kinds)) % len(kinds)])


def _refuse_writes(world: World, amount: float, code: int) -> None:
    world.disk_fault = code
    world.ledger.refused_since = world.loop.now
    world.loop.call_later(amount, world.accept_writes)


def bad_pages(world: World, amount: float) -> None:
    world.disk.spoil = world.spoil
    world.loop.call_later(amount, setattr, world.disk, "spoil", lambda page: None)


def clock(world: World, amount: float) -> None:
    world.loop.wall_offset_s += amount


def slow_network(world: World, amount: float) -> None:
    world.wire.delay_s = 1.0
    world.loop.call_later(amount, setattr, world.wire, "delay_s", 0.02)


def when_online(world: World, call: Callable[[Daemon], None], left: int = 80) -> None:
    """Calls ``call`` in the node's process once the node is online, or never if that takes 4 s."""
    node = world.node
    if world.is_over or left == 0:
        return
    if node.is_up and node.daemon is not None and node.daemon._presence.state == "online":
        if node.process is not None:
            node.process.context.copy().run(call, node.daemon)
    else:
        world.loop.call_later(0.05, when_online, world, call, left - 1)


def reload(world: World, amount: float) -> None:
    """The operator changes the configuration, and the node reads it again. Sometimes a request hangs or takes
    long meanwhile, or the node is stopped. If no engine can load the bundle, the operator mends that."""
    chosen, how = CHANGES[int(amount * len(CHANGES)) % len(CHANGES)], int(amount * 1000) % 5

    def change(daemon: Daemon) -> None:
        world.write_config(chosen)
        daemon.admin.request_reload()
        if how == 0:
            world.loop.call_later(0.03, world.node.stop)
        elif how == 1:
            world.loop.call_later(0.3, world.node.stop)
        if chosen == "broken bundle":
            world.loop.call_later(2.0, world.write_config, "same")

    if how in (1, 2):
        world.next_engine_faults.appendleft("hang" if how == 1 else "slow")
        world.loop.call_later(0.5, when_online, world, change)
    else:
        when_online(world, change)


def replace(world: World, amount: float) -> None:
    """An update that a check of the new deployment may refuse. Sometimes the node is stopped meanwhile."""
    is_stopped = int(amount * 1000) % 3 == 0

    async def check(old: Deployment, new: Deployment) -> None:
        await asyncio.sleep(3.0 if is_stopped else 0.05)
        if amount < 0.5:
            raise SelfTestError("the new model gives other answers")

    async def serve_again(daemon: Daemon) -> None:
        try:
            async with daemon.admin.alone:
                await daemon.admin.serve_again(check)
        except EdgeslmError as error:
            world.note(f"the update failed: {error}")

    def update(daemon: Daemon) -> None:
        world.node.do(serve_again(daemon))
        if is_stopped:
            world.loop.call_later(0.3, world.node.stop)

    when_online(world, update)


def names(world: World, amount: float) -> None:
    """The model that redacts messages fails, crashes or hangs for some seconds."""
    kinds: tuple[What, ...] = ("fail", "crash", "hang")
    world.names_fault = kinds[int(amount * 1000) % len(kinds)]
    world.loop.call_later(amount, setattr, world, "names_fault", "answer")


def broken_update(world: World, amount: float) -> None:
    """A bundle that no engine can load is made active, and the node starts again."""
    node = world.node
    if not node.is_up or node.daemon is None or node.daemon.config.prepare != "never":
        return
    folder = node.config.state_dir
    store = Store(folder, node.name)
    with store.draft() as draft:
        bundle = store.add(write_bundle(draft / "new", weights=BROKEN))
    base = load_bundle(world.folder / "bundle").digest
    entry = store.entry("small")
    if entry is not None and bundle.digest in (entry.active, entry.previous):
        return
    store.activate("small", base, bundle.digest, on_trial=amount < 0.5)
    node.stop()


def bug(world: World, amount: float) -> None:
    """The work on one of the next messages fails because of a bug, or memory is short."""
    kinds: tuple[tuple[Bug, ...], ...] = (("request",), ("request", "memory"), ("route",))
    world.bugs.waiting += kinds[int(amount * len(kinds)) % len(kinds)]


EFFECTS: Final[dict[str, Callable[[World, float], None]]] = {
    "kill": kill,
    "kill_statement": kill_statement,
    "kill_io": kill_io,
    "power_cut": power_cut,
    "kill_place": kill_place,
    "broker_kill": broker_kill,
    "broker_stop": broker_stop,
    "cut_node": lambda world, amount: world.wire.cut(world.node.client),
    "cut_app": cut_app,
    "cut_all": lambda world, amount: world.wire.cut(),
    "partition": partition,
    "flap": flap,
    "close_early": close_early,
    "refuse_subscription": refuse_subscription,
    "refuse_result": refuse_result,
    "stop": lambda world, amount: world.node.stop(),
    "engine": engine,
    "disk_full": lambda world, amount: _refuse_writes(world, amount, 13),
    "disk_error": lambda world, amount: _refuse_writes(world, amount, 778),
    "bad_pages": bad_pages,
    "clock": clock,
    "slow_network": slow_network,
    "reload": reload,
    "replace": replace,
    "broken_update": broken_update,
    "names": names,
    "bug": bug,
}
