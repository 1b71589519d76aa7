"""Control client: sends commands to one node and waits for the answers, as ``edgeslm feedback`` does."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from edgeslm.client.listening import Listening
from edgeslm.errors import BrokerError, EdgeslmError, InvalidRequest
from edgeslm.mqtt.broker_address import BrokerAddress
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.protocol.topics import Topics

RUNNING = ("starting", "online", "draining")
TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.2


class ControlClient:
    """A connection for ``commands``, such as ``models/list``, to the node of ``topics``.

    :param patience_s: time limit of the connection, in seconds.
    """

    def __init__(
        self, address: BrokerAddress, topics: Topics, commands: Sequence[str], patience_s: float
    ) -> None:
        self._topics = topics
        self._patience_s = patience_s
        self._results = {topics.control_result(command) for command in commands}
        self._answers: dict[str, Mapping[str, Any]] = {}
        self._changed = threading.Condition()
        self._listening = Listening(address, [topics.state, *self._results], self._take)

    @classmethod
    def of(
        cls, address: BrokerAddress, node: str, prefix: str, commands: Sequence[str], patience_s: float
    ) -> ControlClient:
        """:raises InvalidRequest: the node's name can't be one."""
        if not re.fullmatch("[a-z0-9-]{1,64}", node):
            raise InvalidRequest(f"{node!r} is not a node's name.")
        return cls(address, Topics(node, prefix), commands, patience_s)

    def __enter__(self) -> ControlClient:
        """:raises BrokerError: the broker can't be used, or the node doesn't run."""
        self._listening.__enter__()
        try:
            self._check_running()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._listening.__exit__(*exception)

    def _check_running(self) -> None:
        payload = self._listening.retained(self._patience_s).get(self._topics.state)
        found = _object(payload or b"")
        state = found.get("state")
        if state not in RUNNING:
            told = f"is {state}" if isinstance(state, str) else "has never been heard of at this broker"
            raise BrokerError(f"The node {self._topics.node} {told}.")

    def ask(
        self, command: str, arguments: Mapping[str, Any], timeout_s: float = TIMEOUT_S
    ) -> Mapping[str, Any]:
        """The result of a command.

        :raises BrokerError: no answer in time. :raises EdgeslmError: the node refuses the command.
        """
        id = secrets.token_hex(8)
        payload = json.dumps({"id": id, **arguments}, ensure_ascii=False).encode()
        sent = self._listening.send(OutgoingMessage(self._topics.control(command), payload))
        ends = time.monotonic() + timeout_s
        with self._changed:
            while (
                id not in self._answers and time.monotonic() < ends and not self._listening.is_unheard(sent)
            ):
                self._changed.wait(LOOK_EVERY_S)
            if id not in self._answers:
                group = command.partition("/")[0]
                raise BrokerError(
                    f"The node {self._topics.node} doesn't answer the command {command}; its configuration "
                    f"must allow it (control: {{allow: [{group}]}})."
                )
            answer = self._answers.pop(id)
        error, result = answer.get("error"), answer.get("result")
        if isinstance(result, dict) and answer.get("status") == "ok":
            return result
        message = error.get("message") if isinstance(error, dict) else None
        raise EdgeslmError(f"The node {self._topics.node} refuses it: {message or 'it gives no reason'}")

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        answer = _object(payload)
        if topic in self._results and not retained and isinstance(answer.get("id"), str):
            with self._changed:
                self._answers[answer["id"]] = answer
                self._changed.notify_all()


def _object(payload: bytes) -> dict[str, Any]:
    try:
        found = parse_json(decode_text(payload))
    except InvalidRequest:
        return {}
    return found if isinstance(found, dict) else {}
