"""Commands over the bus that no running node is needed for. What they do is in test_admin.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from edgeslm.config.sections import Audit
from edgeslm.errors import InvalidRequest
from edgeslm.mqtt.client import BusClient
from edgeslm.node.control_api import ControlApi
from edgeslm.protocol.codec import Topics
from edgeslm.protocol.commands import only, text_argument
from edgeslm.protocol.delivery import Delivery, OutgoingMessage
from edgeslm.telemetry.audit import AuditLog

TOPICS = Topics("hall")


class FakeBus:
    """Notes what is acknowledged and published."""

    def __init__(self) -> None:
        self.acked: list[Delivery] = []
        self.published: list[tuple[str, dict[str, Any]]] = []

    def ack(self, delivery: Delivery) -> None:
        self.acked.append(delivery)

    async def publish(self, message: OutgoingMessage) -> None:
        self.published.append((message.topic, json.loads(message.payload)))


def delivery(command: str, payload: bytes = b"") -> Delivery:
    return Delivery(
        topic=TOPICS.control(command),
        payload=payload,
        qos=1,
        retain=False,
        dup=False,
        response_topic=None,
        correlation=None,
        expiry_s=None,
        generation=1,
        mid=1,
        size=len(payload),
        received_at=0.0,
    )


async def echo(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return arguments


async def breaks(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    raise KeyError("a mistake of ours")


def control(bus: FakeBus, allowed: tuple[str, ...], **handlers: Any) -> ControlApi:
    named = {name.replace("_", "/"): handler for name, handler in handlers.items()}
    return ControlApi(cast(BusClient, bus), TOPICS, AuditLog(Audit()), allowed, named)


def test_only_what_is_allowed_is_subscribed_to() -> None:
    made = control(FakeBus(), ("models",), models_list=echo, models_stage=echo, ping=echo)
    assert [one.filter for one in made.subscriptions] == [
        "edgeslm/v1/hall/ctl/models/list",
        "edgeslm/v1/hall/ctl/models/stage",
    ]


def test_a_command_is_acknowledged_at_once_and_answered() -> None:
    bus = FakeBus()

    async def give() -> None:
        made = control(bus, ("ping",), ping=echo)
        made.on_message(delivery("ping", b'{"id": "1", "a": 2}'))
        assert len(bus.acked) == 1
        while not bus.published:
            await asyncio.sleep(0)

    asyncio.run(give())
    topic, said = bus.published[0]
    assert topic == "edgeslm/v1/hall/ctl/ping/res"
    assert said == {"id": "1", "command": "ping", "status": "ok", "result": {"a": 2}}


def test_a_mistake_of_ours_is_answered_too() -> None:
    bus = FakeBus()

    async def give() -> None:
        control(bus, ("ping",), ping=breaks).on_message(delivery("ping"))
        while not bus.published:
            await asyncio.sleep(0)

    asyncio.run(give())
    assert bus.published[0][1]["error"] == {"code": "internal", "message": "the node failed on it (KeyError)"}


def test_so_many_at_a_time() -> None:
    bus = FakeBus()

    async def give() -> None:
        gate = asyncio.Event()

        async def waits(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
            await gate.wait()
            return {}

        made = control(bus, ("ping",), ping=waits)
        for _ in range(6):
            made.on_message(delivery("ping"))
        await asyncio.sleep(0.01)
        gate.set()
        while len(bus.published) < 6:
            await asyncio.sleep(0)

    asyncio.run(give())
    codes = [said.get("error", {}).get("code") for _, said in bus.published]
    assert sorted(map(str, codes)) == ["None"] * 4 + ["busy"] * 2


def test_arguments_are_checked() -> None:
    only({"a": 1}, "a", "b")
    with pytest.raises(InvalidRequest, match="no argument 'c'; it has a, b"):
        only({"c": 1}, "a", "b")
    assert text_argument({"a": "x"}, "a") == "x"
    for wrong in ({}, {"a": 1}, {"a": " "}):
        with pytest.raises(InvalidRequest, match="needs 'a'"):
            text_argument(wrong, "a")
