"""Models on OpenAI-compatible servers, as the last stage of tasks.

A server may be down, slow, overloaded or wrong. It is asked once for each request. While it fails, further
requests don't wait for it, but get this node's own result at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeslm.config.remote_stages import ChatServer, RemoteStage, read_key
from edgeslm.config.templates import Scope, make_condition
from edgeslm.errors import TemplateError
from edgeslm.messages import Request, Result
from edgeslm.remote.chat import Chat, RemoteError, Reply
from edgeslm.remote.redaction import Redaction
from edgeslm.tasks import Task

if TYPE_CHECKING:
    from edgeslm.remote.client import ChatClient

log = logging.getLogger("edgeslm.serving")

MOST_AT_ONCE: Final = 8
"""Maximum number of requests that wait for one server at a time; more wait for their turn."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
"""Pauses after failures of a server, in which it isn't asked: doubled with each failure in a row."""


@dataclass(frozen=True, slots=True)
class RemoteTarget:
    """A server's model; ``own`` is the task that asks it."""

    server: ChatServer
    own: Task

    @property
    def stage(self) -> str:
        return str(RemoteStage(openai=self.server))


class OnSent(Protocol):
    """Gets what left this node: the request, the server, and the bytes of the body."""

    def __call__(self, request: Request, server: ChatServer, size: int, /) -> None: ...


def _ignore(request: Request, server: ChatServer, size: int) -> None:
    pass


class Servers:
    """The servers of all tasks. ``on_sent`` is called for each body that was sent, whole or in part."""

    def __init__(self, make_client: Callable[[ChatServer], ChatClient] | None = None) -> None:
        self.on_sent: OnSent = _ignore
        self._make_client = make_client or _make_client
        self._links: dict[ChatServer, _Link] = {}

    async def ask(
        self, target: RemoteTarget, request: Request, found: Mapping[str, Any], left_s: float
    ) -> Result | None:
        """The server's answer; None if the request may not be sent, or the answer is unusable.

        :raises EdgeslmError: the server doesn't answer.
        """
        if not _may_leave(target.server, request, found):
            return None
        link = self._links.get(target.server)
        if link is None:
            link = self._links[target.server] = _Link(self._make_client(target.server))
        on_sent = partial(self.on_sent, request, target.server)
        until, usage = time.monotonic() + left_s, dict[str, int]()

        async def consult(chat: Chat) -> Reply:
            reply = await link.ask(chat, target.server, until, on_sent)
            usage.update(reply.usage)
            return reply

        result = await target.own.consult(request, found, consult)
        if result is None:
            log.warning("task %s: the answer of %s doesn't fit this task", request.task, target.stage)
            return None
        model = f"{target.server.model}@{target.server.host}"
        return Result(request.id, request.task, "ok", result, model=model, usage=usage)

    async def forget_all_but(self, servers: Collection[ChatServer]) -> None:
        """Closes the connections to servers that the configuration doesn't name any more."""
        for server in [one for one in self._links if one not in servers]:
            await self._links.pop(server).close()

    async def close(self) -> None:
        await self.forget_all_but(())


_condition = lru_cache(64)(make_condition)


def _may_leave(server: ChatServer, request: Request, found: Mapping[str, Any]) -> bool:
    """Whether the request fulfils ``only``. If the condition can't be evaluated, it doesn't."""
    if server.only is None:
        return True
    payload = {"input": request.input, "sender": request.sender or "", "result": dict(found)}
    try:
        return _condition(server.only)(Scope(payload, ""))
    except TemplateError as error:
        log.warning("task %s: nothing is sent, as openai.only doesn't fit: %s", request.task, error)
        return False


class _Link:
    """One server: its client, the requests in their turn, and pauses after failures."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._failures = 0
        self._asleep_until = 0.0

    async def ask(
        self, chat: Chat, server: ChatServer, until: float, on_sent: Callable[[int], None]
    ) -> Reply:
        """:raises RemoteError: there is no answer in time, or the server failed a moment ago."""
        until = min(until, time.monotonic() + server.timeout_s)
        try:
            async with asyncio.timeout(until - time.monotonic()):
                await self._turns.acquire()
        except TimeoutError:
            raise RemoteError("too many requests wait for it") from None
        try:
            if (pause_s := self._asleep_until - time.monotonic()) > 0:
                raise RemoteError(f"it failed; it is asked again in {pause_s:.0f} s")
            redaction = Redaction(server.redact, _texts(chat.messages))
            sent = replace(chat, messages=redaction.hide(chat.messages), tools=redaction.hide(chat.tools))
            try:
                reply = await self._client.ask(sent, max(0.0, until - time.monotonic()), on_sent)
            except RemoteError as error:
                if error.is_of_server:
                    self._failed(error.retry_after_s)
                raise
            self._failures = 0
            calls = [(name, redaction.restore(arguments)) for name, arguments in reply.calls]
            return replace(reply, text=redaction.restore(reply.text), calls=calls)
        finally:
            self._turns.release()

    async def close(self) -> None:
        await self._client.close()

    def _failed(self, retry_after_s: float | None) -> None:
        self._failures += 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10))
        if retry_after_s is not None:
            pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, retry_after_s))
        self._asleep_until = time.monotonic() + pause_s


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [text for child in children for text in _texts(child)]


def _make_client(server: ChatServer) -> ChatClient:
    from edgeslm.remote.client import ChatClient  # few nodes ask servers

    key = None if server.key_file is None else partial(read_key, server.key_file)
    try:
        return ChatClient(
            server.url, server.model, read_key=key, ca_file=server.ca_file, is_local=server.is_local
        )
    except OSError as error:
        raise RemoteError(f"ca_file can't be used: {error.strerror or error}") from None
