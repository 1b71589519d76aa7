"""The node, as the API process sees it: what it offers, and requests to it."""

from __future__ import annotations

import asyncio
import hmac
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeslm.api.tokens import ANONYMOUS, digest_of
from edgeslm.api.wire import Browse, Leave, Submit
from edgeslm.ipc.codec import FrameError
from edgeslm.protocol.codec import encode_request
from edgeslm.web.server import Refusal

CODE = "X-Edgeslm-Code"
"""Header of a refusal with the protocol's error code; it isn't sent."""
MOST_OF_CLIENT = 32
"""Maximum number of requests of one client that wait or run."""
Answer = AsyncGenerator[str | dict[str, Any], None]
"""The pieces of a streamed text, and at the end the result, an object as over MQTT. Closing it cancels the
request."""
MARGIN_S = 10.0
"""Time added to a request's timeout, for its transfer through the pipe."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A task or model that clients may name. ``about`` describes its model; ``reranker`` is the task by which
    this model ranks documents, if it can."""

    name: str
    kind: str
    options: frozenset[str]
    about: Mapping[str, Any]
    reranker: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A task as a tool of MCP clients. ``input`` and ``output`` are JSON Schemas of its arguments and its
    result; ``collections`` are the document collections that it searches."""

    name: str
    description: str
    input: Mapping[str, Any]
    output: Mapping[str, Any]
    collections: Sequence[str]
    is_open: bool = False
    """Whether the task may ask a server that isn't a node."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request to the node, translated from a dialect."""

    task: str
    input: str | Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Client:
    """Whoever sent the HTTP request. ``tasks``: what it may use; None for all."""

    name: str
    tasks: Sequence[str] | None = None


class NodeLink:
    """Sends requests to the node and passes on its answers. ``say`` sends a message through the pipe."""

    def __init__(
        self, say: Callable[[Submit | Browse | Leave], None], timeout_s: float, *, anonymous: bool
    ) -> None:
        self._say = say
        self._timeout_s = timeout_s
        self._anonymous = anonymous
        self._offered: dict[str, Offered] = {}
        self._tools: list[Tool] = []
        self._clients: dict[str, Client] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[str | dict[str, Any]]] = {}
        self._held: Counter[str] = Counter()

    def take(self, message: Mapping[str, Any]) -> None:
        """Takes a message of the node."""
        if message["kind"] == "offer":
            self._offered = {
                one["name"]: Offered(
                    one["name"], one["kind"], frozenset(one["options"]), one, one.get("reranker")
                )
                for one in message["tasks"]
            }
            self._tools = [Tool(**tool) for tool in message["tools"]]
            self._clients = {digest: Client(name, tasks) for name, digest, tasks in message["clients"]}
        elif (queue := self._waiting.get(message["number"])) is not None:
            queue.put_nowait(message["text"] if message["kind"] == "chunk" else message["result"])

    def client(self, authorization: str | None) -> Client | None:
        """The client with this Authorization header; None if its token is unknown. Where requests without a
        token are taken, so are those with an unknown one: OpenAI's client always sends one."""
        scheme, _, token = (authorization or "").partition(" ")
        wanted = digest_of(token.strip())
        known = [client for digest, client in self._clients.items() if hmac.compare_digest(digest, wanted)]
        if known and scheme.lower() == "bearer":
            return known[0]
        return Client(ANONYMOUS) if self._anonymous else None

    def offered(self, client: Client) -> list[Offered]:
        """What the client may use."""
        return [one for one in self._offered.values() if client.tasks is None or one.name in client.tasks]

    def tools(self, client: Client) -> dict[str, Tool]:
        """The tools that the client may call, by name."""
        return {one.name: one for one in self._tools if client.tasks is None or one.name in client.tasks}

    def find(self, client: Client, name: Any) -> Offered:
        """:raises Refusal: the client can't use it, or there is none."""
        if not isinstance(name, str) or not name:
            raise Refusal(400, "model must be a text: a task, or model:NAME.")
        names = {one.name: one for one in self.offered(client)}
        found = names.get(name) or names.get(name.removesuffix(":latest"))
        if found is None:
            sentence = f"There is no model {name[:100]!r} here; there are: {', '.join(names) or 'none'}."
            raise Refusal(404, sentence, {CODE: "unknown_task"})
        return found

    def ask(self, client: Client, question: Question, key: str | None) -> Answer:
        """The pieces of a streamed text, and at the end the result, an object as over MQTT. Closing the
        iterator cancels a request without ``key``.

        :raises Refusal: when iterated: the client has too many requests, the request is too long, or the node
            is silent.
        """
        payload = encode_request(question.input, options=question.options, id=key).decode()
        return self._answer(
            client, lambda number: Submit(number, client.name, question.task, payload, key is not None)
        )

    def browse(self, client: Client, collection: str, source: str | None) -> Answer:
        """The documents of a collection, or the text of one, as the result of a request; see :meth:`ask`."""
        return self._answer(client, lambda number: Browse(number, client.name, collection, source))

    async def _answer(self, client: Client, make: Callable[[int], Submit | Browse]) -> Answer:
        if self._held[client.name] >= MOST_OF_CLIENT:
            sentence = f"{MOST_OF_CLIENT} requests of this client are running; wait for one of them."
            raise Refusal(429, sentence, {"Retry-After": "1"})
        number, is_done = next(self._numbers), False
        queue = self._waiting[number] = asyncio.Queue()
        self._held[client.name] += 1
        try:
            self._say(make(number))
            while not is_done:
                async with asyncio.timeout(self._timeout_s + MARGIN_S):
                    told = await queue.get()
                is_done = not isinstance(told, str)
                yield told
        except TimeoutError:
            raise Refusal(504, "The node doesn't answer.") from None
        except FrameError:
            raise Refusal(413, "That is more than the node takes.") from None
        finally:
            del self._waiting[number]
            self._held[client.name] -= 1
            if not is_done:
                self._say(Leave(number))
