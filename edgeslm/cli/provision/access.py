"""Broker access list (mosquitto): derives the topics that each client may use from the nodes' configurations.

A node may use the topics that its configuration needs; an app may use the topics of its grants. All other
topics are forbidden. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from edgeslm.cli.provision.certificates import check_client_name
from edgeslm.config.schema import NODE_STAGE, Config
from edgeslm.errors import ProvisionError
from edgeslm.protocol.topic_filters import base_topic, filter_fault, matches, overlap
from edgeslm.protocol.topics import BROKER_DROPPED, POOL, Topics
from edgeslm.telemetry.discovery import entity_filter, route_filter

Access = Literal["read", "write", "readwrite"]

COMMANDS = ("req/+", "cancel", "feedback", "feedback/+", "ctl/#")
"""Topic filters, relative to a node's base topic, of the requests and commands that clients publish."""
_ANY_OTHER = "~"
"""Placeholder for any other node; it is not a valid node name."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A topic filter and the access allowed to it; ``why`` becomes a comment in the access list."""

    access: Access
    filter: str
    why: str

    def allows(self, access: Literal["read", "write"], topic: str) -> bool:
        return self.access in (access, "readwrite") and matches(self.filter, topic)


@dataclass(frozen=True, slots=True)
class User:
    """A client of the broker. ``name`` is the client's login, which the broker takes from its certificate."""

    name: str
    grants: tuple[Grant, ...]

    def may(self, access: Literal["read", "write"], topic: str) -> bool:
        return any(grant.allows(access, topic) for grant in self.grants)


def node_user(config: Config) -> User:
    """The access that a node needs; the node's name is its login."""
    topics = Topics(config.node, config.prefix)
    grants = [*_own(topics, config), *_member(config), *_routes(topics, config), *_peers(config)]
    return User(config.node, _merged(grants))


def _own(topics: Topics, config: Config) -> Iterator[Grant]:
    for said in (topics.requests_filter, topics.cancel, *_feedback_topics(topics, config)):
        yield Grant("read", said, "requests and messages of apps")
    for told in (topics.state, topics.info, topics.health, topics.dead):
        yield Grant("write", told, "its state, info, health and dead letters")
    # It reads them too, for `edgeslm check --connect`.
    yield Grant("readwrite", topics.result("#"), "its results")
    yield from _replies(config)
    for command in config.control.allow:
        yield Grant("read", topics.control(_levels(command)), "commands that it takes (control)")
        yield Grant("write", topics.control_result(_levels(command)), "commands that it takes (control)")
    if (prefix := config.discovery.prefix) is not None:
        yield Grant(
            "write", entity_filter(prefix, topics.base), "discovery messages for Home Assistant (discovery)"
        )
        yield Grant("read", f"{prefix}/status", "discovery messages for Home Assistant (discovery)")
    yield Grant("read", BROKER_DROPPED, "what the broker dropped, for health")


def _replies(config: Config) -> Iterator[Grant]:
    for reply in config.replies:
        yield Grant("write", reply, "where requests may send results to (replies)")
        if not reply.endswith("#"):
            yield Grant("write", Topics.stream(reply), "where requests may send results to (replies)")


def _member(config: Config) -> Iterator[Grant]:
    """Access of a pool's member. For a shared subscription, the broker checks only the topic filter after
    ``$share/<group>/``."""
    if config.pool is not None and config.pool.by == "share":
        topics, why = (
            Topics.of_pool(config.pool.name, config.prefix),
            f"its share of the pool {config.pool.name}",
        )
        for task in config.pool.tasks:
            yield Grant("read", topics.request(task), why)
        yield Grant("read", topics.cancel, why)
    if config.pool is not None:
        topics = Topics.of_pool(config.pool.name, config.prefix)
        yield Grant("write", topics.result("#"), f"results of the pool {config.pool.name}")


def _dispatcher(pool: str, nodes: Mapping[str, Config]) -> Iterator[Grant]:
    """Access that a pool's dispatcher needs: to its clients' requests and to its members."""
    topics, members = _pool(pool, nodes), [one for one in nodes.values() if _is_member(one, pool)]
    why = f"hands out the requests of the pool {pool}"
    for asked in (topics.requests_filter, topics.cancel):
        yield Grant("read", asked, why)
    for told in (topics.state, f"{topics.base}/lease", f"{topics.base}/answered"):
        yield Grant("readwrite", told, why)
    for told in (topics.info, topics.health, topics.dead):
        yield Grant("write", told, why)
    yield Grant("readwrite", topics.result("#"), why)
    for said in ("state", "info", "health"):
        yield Grant("read", f"{base_topic(topics.prefix, '+')}/{said}", why)
    for member in members:
        own = Topics(member.node, member.prefix)
        for task in member.pool.tasks if member.pool is not None else ():
            yield Grant("write", own.request(task), f"asks the member {member.node}")
        yield Grant("write", own.cancel, f"asks the member {member.node}")
        yield from _replies(member)


def _is_member(config: Config, pool: str) -> bool:
    return config.pool is not None and config.pool.name == pool


def _pool(name: str, nodes: Mapping[str, Config]) -> Topics:
    for config in nodes.values():
        if _is_member(config, name):
            return Topics.of_pool(name, config.prefix)
    pools = ", ".join(sorted({one.pool.name for one in nodes.values() if one.pool is not None})) or "none"
    raise ProvisionError(f"no configuration names the pool {name!r}; there is {pools}")


def _pool_task(text: str, nodes: Mapping[str, Config]) -> tuple[Topics, str]:
    pool, _, task = text.partition("/")
    topics = _pool(pool, nodes)
    tasks = {task for one in nodes.values() if one.pool and one.pool.name == pool for task in one.pool.tasks}
    if task not in tasks:
        near = difflib.get_close_matches(task, sorted(tasks), 1) or sorted(tasks)
        raise ProvisionError(f"no member of the pool {pool} does {task!r} for it; there is {', '.join(near)}")
    return topics, task


def _levels(command: str) -> str:
    """Topic levels of a command; a group of commands, such as ``models``, gets a wildcard."""
    return f"{command}/+" if command in ("models", "feedback") else command


def _feedback_topics(topics: Topics, config: Config) -> list[str]:
    senders = config.feedback.senders
    return [topics.feedback] if senders is None else [*map(topics.feedback_by, senders)]


def _routes(topics: Topics, config: Config) -> Iterator[Grant]:
    for route in config.routes:
        why = f"route {route.name}"
        yield Grant("read", route.source, why)
        if route.window is not None and route.window.on is not None:
            yield Grant("read", route.window.on, why)
        if route.task is not None:
            yield Grant("write", route_filter(topics.base, route), why)


def _peers(config: Config) -> Iterator[Grant]:
    for name, task in config.tasks.items():
        for stage in (*task.stages, task.escalate):
            if isinstance(stage, str) and stage.startswith(NODE_STAGE):
                node, _, asked = stage.removeprefix(NODE_STAGE).partition("/")
                topics, why = Topics(node, config.prefix), f"task {name} asks {stage}"
                yield from _asking(topics, asked, config.node, why)
                yield Grant("write", topics.cancel, why)


def _asking(topics: Topics, task: str, name: str, why: str) -> Iterator[Grant]:
    """Access that a program with the login ``name`` needs to send requests to a node's task with
    ``edgeslm.client``."""
    yield Grant("write", topics.request(task), why)
    yield Grant("read", f"{topics.result(task)}/{name}/#", why)
    yield Grant("read", topics.state, why)
    yield Grant("read", topics.info, why)


def app_user(text: str, configs: Sequence[Config]) -> User:
    """An app and its grants, from ``NAME:GRANT,GRANT``.

    ``NODE/TASK`` allows requests to a task; if only one node's configuration is given, ``NODE/`` can be
    omitted. ``pool=POOL/TASK`` allows requests to a task of a pool. ``cancel=NODE`` and ``cancel=pool/POOL``
    allow the app to cancel requests. ``feedback=NODE`` allows sending corrections, in the app's name if the
    node's configuration names the senders, and ``health=NODE`` reading the health message.
    ``control=NODE/COMMAND`` allows a command, which the node must allow, too.
    ``results=NODE/TASK`` allows reading a task's results for requests that name no reply topic.
    ``read=FILTER`` and ``write=FILTER`` allow reading and writing any topics that match ``FILTER``.
    ``dispatcher=POOL`` allows the topics that the dispatcher of a pool needs.

    The app's own replies arrive below ``<base>/res/<task>/<NAME>/``, which no other app may read.

    :raises ProvisionError: the text is invalid, or names an unknown node or task.
    """
    name, _, rest = text.partition(":")
    check_client_name(name)
    nodes = {config.node: config for config in configs}
    try:
        return User(name, _merged(_given(name, filter(None, map(str.strip, rest.split(","))), nodes)))
    except ProvisionError as error:
        raise ProvisionError(f"--app {name}: {error}") from None


def _given(name: str, parts: Iterable[str], nodes: Mapping[str, Config]) -> Iterator[Grant]:
    for part in parts:
        word, has_value, value = part.partition("=")
        if not has_value:
            topics, task = _task(part, nodes)
            yield from _asking(topics, task, name, f"asks {part}")
        elif word in ("read", "write"):
            if fault := filter_fault(value):
                raise ProvisionError(f"the filter {value!r} {fault}")
            yield Grant("read" if word == "read" else "write", value, "given")
        elif word == "pool":
            topics, task = _pool_task(value, nodes)
            yield from _asking(topics, task, name, f"asks {part}")
        elif word == "dispatcher":
            yield from _dispatcher(value, nodes)
        elif word == "cancel" and value.startswith(POOL):
            yield Grant("write", _pool(value.removeprefix(POOL), nodes).cancel, part)
        elif word == "cancel":
            yield Grant("write", _node(value, nodes).cancel, part)
        elif word == "feedback":
            topics = _node(value, nodes)
            senders = nodes[value].feedback.senders
            if senders is not None and name not in senders:
                raise ProvisionError(f"the node {value} keeps no corrections of {name} (feedback.senders)")
            yield Grant("write", topics.feedback if senders is None else topics.feedback_by(name), part)
        elif word == "health":
            yield Grant("read", _node(value, nodes).health, part)
        elif word == "control":
            node, _, command = value.partition("/")
            topics = _node(node, nodes)
            if command not in nodes[node].control.allow:
                raise ProvisionError(f"the node {node} doesn't take the command {command!r} (control.allow)")
            yield Grant("write", topics.control(_levels(command)), part)
            yield Grant("read", topics.control_result(_levels(command)), part)
        elif word == "results":
            topics, task = _task(value, nodes)
            yield Grant("read", topics.result(task), part)
        else:
            known = "cancel=, control=, dispatcher=, feedback=, health=, pool=, results=, read= and write="
            raise ProvisionError(f"{word}= is unknown; there are NODE/TASK, {known}")


def _task(text: str, nodes: Mapping[str, Config]) -> tuple[Topics, str]:
    node, slash, task = text.rpartition("/")
    if not slash:
        if len(nodes) != 1:
            raise ProvisionError(f"which node's task is {text!r}? write NODE/{text}")
        (node,) = nodes
    topics = _node(node, nodes)
    if task not in (tasks := nodes[node].tasks):
        near = difflib.get_close_matches(task, list(tasks), 1) or sorted(tasks)
        raise ProvisionError(f"the node {node} has no task {task!r}; there is {', '.join(near)}")
    return topics, task


def _node(name: str, nodes: Mapping[str, Config]) -> Topics:
    if name not in nodes:
        raise ProvisionError(f"no configuration is of a node {name!r}; there is {', '.join(sorted(nodes))}")
    return Topics(name, nodes[name].prefix)


def _merged(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Merges grants with the same topic filter into one grant, which has all their accesses and the position
    of the first."""
    merged: dict[str, Grant] = {}
    for grant in grants:
        there = merged.setdefault(grant.filter, grant)
        if there.access != grant.access:
            merged[grant.filter] = Grant("readwrite", grant.filter, there.why)
    return tuple(merged.values())


def too_wide(user: User, prefix: str) -> list[Grant]:
    """Grants that cover the requests or commands of any node.

    For example, a route whose ``to`` consists of only a template may publish on any topic, so its grant
    covers all topics, including those of requests.
    """
    asked = [[*prefix.split("/"), "v1", _ANY_OTHER, *command.split("/")] for command in COMMANDS]
    return [grant for grant in user.grants if any(overlap(grant.filter.split("/"), one) for one in asked)]


def render(users: Sequence[User]) -> str:
    """The text of mosquitto's ``acl_file``.

    :raises ProvisionError: two users have the same name, or a filter isn't valid in this file.
    """
    lines = [
        "# Topics of each client. Made by `edgeslm provision`; make it again after a configuration changes.",
        "# Everything else is forbidden. Users are the names in the clients' certificates.",
    ]
    seen: set[str] = set()
    for user in users:
        if user.name in seen:
            raise ProvisionError(f"two clients are called {user.name!r}: give each a name of its own")
        seen.add(user.name)
        lines += ["", f"user {user.name}"]
        for why in dict.fromkeys(grant.why for grant in user.grants):
            lines.append(f"# {why}")
            lines += [_line(grant) for grant in user.grants if grant.why == why]
    return "\n".join(lines) + "\n"


def parse_access(text: str) -> list[User]:
    """The users of an access list that :func:`render` wrote.

    :raises ProvisionError: the text was not written by :func:`render`.
    """
    users: list[User] = []
    why = "given"
    for number, line in enumerate(text.split("\n"), 1):
        if found := re.fullmatch(r"user (\S+)", line):
            check_client_name(found[1])
            users.append(User(found[1], ()))
        elif (found := re.fullmatch(r"topic (read|write|readwrite) (.+)", line)) and users:
            if fault := filter_fault(found[2]):
                raise ProvisionError(f"line {number}: the filter {found[2]!r} {fault}")
            grant = Grant(cast(Access, found[1]), found[2], why)
            users[-1] = replace(users[-1], grants=(*users[-1].grants, grant))
        elif line.startswith("# "):
            why = line.removeprefix("# ")
        elif line:
            raise ProvisionError(f"line {number} is none that edgeslm provision writes: {line[:80]!r}")
    return users


def _line(grant: Grant) -> str:
    if grant.filter != grant.filter.strip():  # mosquitto cuts off white space
        raise ProvisionError(
            f"the topic {grant.filter!r} begins or ends with white space, which mosquitto's access list "
            "can't hold"
        )
    return f"topic {grant.access} {grant.filter}"
