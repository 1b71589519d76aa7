"""Operator client for tests: sends control commands to a node over MQTT and receives the answers."""

from __future__ import annotations

import json
from typing import Any

from tests.support.apps import App, Heard
from tests.support.nodes import BASE


class Operator:
    """Sends commands and receives the answers."""

    def __init__(self, app: App, name: str = "given") -> None:
        self._app = app
        self._name = name
        self._given = 0

    def give(self, command: str, **arguments: Any) -> dict[str, Any]:
        self._given += 1
        id = f"{self._name}-{self._given}"
        self._app.publish(
            f"{BASE}/ctl/{command}", json.dumps({"id": id, **arguments}), correlation=id.encode()
        )

        def is_answer(heard: Heard) -> bool:
            return heard.json.get("id") == id

        topic = f"{BASE}/ctl/{command}/res"
        self._app.wait_until(lambda: any(map(is_answer, self._app.untaken(topic))), f"{command} is answered")
        found = next(filter(is_answer, self._app.untaken(topic)))
        assert found.correlation == id.encode()
        return found.json


def ask(app: App, task: str, text: str, correlation: bytes) -> dict[str, Any]:
    app.publish(f"{BASE}/req/{task}", text, correlation=correlation)

    def answers() -> list[dict[str, Any]]:
        heard = app.untaken(f"{BASE}/res/{task}")
        return [one.json for one in heard if one.correlation == correlation]

    app.wait_until(lambda: bool(answers()), "an answer")
    return answers()[0]
