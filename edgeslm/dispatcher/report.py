"""Dispatcher report: the pool's ``info`` and ``health`` messages, without any text of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeslm import __version__
from edgeslm.dispatcher.members import Members
from edgeslm.dispatcher.nodes import NodeSide
from edgeslm.dispatcher.settings import DispatcherSettings
from edgeslm.dispatcher.topics import PoolTopics
from edgeslm.protocol.codec import PROTOCOL_VERSION
from edgeslm.telemetry.health import memory_bytes

TOLD = ("kind", "options", "result_schema")
"""Keys of a task that the pool's info message copies from a node's info message."""


def describe(settings: DispatcherSettings, members: Members, boot_id: str) -> dict[str, Any]:
    """The pool's info message: like the info message of a node, with the tasks of all members."""
    clients = PoolTopics(settings.pool, settings.prefix).clients
    return {
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "node": clients.node,
        "boot_id": boot_id,
        "dispatcher": {"name": settings.name, "pool": settings.pool},
        "tasks": {
            name: {
                **{key: offer.document[key] for key in TOLD if key in offer.document},
                "request": clients.request(name),
                "models": sorted(members.models(name)),
            }
            for name, offer in members.tasks.items()
        },
        "members": members.known,
        "limits": settings.limits.model_dump(),
    }


def health(
    state: str,
    figures: Mapping[str, Any],
    nodes: NodeSide,
    *,
    session_lost: int,
    alerts: Sequence[str],
) -> dict[str, Any]:
    """The pool's health message. ``figures`` are the counts and times of the dispatcher's ``Meter``."""
    forwarder, members = nodes.forwarder, nodes.members
    return {
        "state": state,
        "queue": len(forwarder.waiting),
        "in_flight": forwarder.in_flight,
        **figures,
        "forwarded": dict(forwarder.counts),
        "session_lost": session_lost,
        "members": {
            name: {
                "state": said,
                "in_flight": forwarder.load(name),
                "service_ms": forwarder.throughput.figures(name),
                **({"stuck": True} if forwarder.is_silent(name) else {}),
            }
            for name, said in members.known.items()
        },
        "memory_bytes": memory_bytes({}),
        "alerts": list(alerts),
    }
