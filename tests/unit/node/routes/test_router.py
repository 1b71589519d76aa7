"""The results of routes, without a broker."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from edgeslm.config.route_sections import Route
from edgeslm.errors import BrokerError
from edgeslm.mqtt.publisher import Publisher
from edgeslm.node.routes.route import RouteReader
from edgeslm.node.routes.router import RouteAnswers
from edgeslm.protocol.codec import Topics
from edgeslm.protocol.delivery import OutgoingMessage


def test_a_result_that_the_broker_refuses_is_reported_as_dead() -> None:
    sent: list[OutgoingMessage] = []

    async def publish(message: OutgoingMessage) -> None:
        if message.topic == "out":
            raise BrokerError("The broker refuses the message to out: Not authorized.")
        sent.append(message)

    async def main() -> None:
        bus: Any = SimpleNamespace(publish=publish)
        journal: Any = None
        backend: Any = SimpleNamespace(publisher=Publisher(bus, Topics("hall")))
        route = RouteReader(
            Route.model_validate({"from": "in", "task": "triage", "to": "out"}), "edgeslm/v1/hall"
        )
        answers = RouteAnswers([route], backend, journal)
        await answers._publish(route, route.work_on("out"), b'{"id": "7", "task": "triage"}')

    asyncio.run(main())
    assert [message.topic for message in sent] == ["edgeslm/v1/hall/dead"]
    body = json.loads(sent[0].payload)
    assert (body["id"], body["task"], body["reply_to"]) == ("7", "triage", "out")
    assert body["reason"] == "invalid_request"
    assert "Not authorized" in body["message"]
