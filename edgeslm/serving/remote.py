"""Models on OpenAI-compatible servers, as the last stage of tasks.

A server may be down, slow, overloaded or wrong. It is asked once for each request. While it fails, further
requests don't wait for it, but get this node's own result at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeslm.config.remote_stages import ChatServer, RemoteStage, read_key
from edgeslm.config.templates import Scope, make_condition
from edgeslm.errors import TemplateError
from edgeslm.messages import DIRECT, Request, Result
from edgeslm.remote.chat import Chat, RemoteError, Reply
from edgeslm.tasks import Task

if TYPE_CHECKING:
    from edgeslm.remote.client import ChatClient
    from edgeslm.remote.redaction import Redaction

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


class OnUsage(Protocol):
    """Gets the tokens that another node or server used for a request."""

    def __call__(self, request: Request, usage: Mapping[str, int], /) -> None: ...


def _ignore(*told: Any) -> None:
    pass


class Servers:
    """The servers of all tasks. ``on_sent`` is called for each body that was sent, whole or in part, and
    ``on_usage`` for each answer."""

    def __init__(self, make_client: Callable[[ChatServer], ChatClient] | None = None) -> None:
        self.on_sent: OnSent = _ignore
        self.on_usage: OnUsage = _ignore
        self._make_client = make_client or _make_client
        self._links: dict[Hashable, _Link] = {}
        self._named: Collection[ChatServer] | None = None
        """The servers of the current configuration; None before the first reload."""

    async def ask(
        self, target: RemoteTarget, request: Request, found: Mapping[str, Any], left_s: float
    ) -> Result | None:
        """The server's answer; None if the request may not be sent, or the answer is unusable.

        :raises EdgeslmError: the server doesn't answer.
        """
        server = target.server
        is_named = self._named is None or server in self._named
        if not is_named or not _may_leave(server, request, found):
            return None
        on_sent = partial(self.on_sent, request, server)
        until, usage, was_asked = time.monotonic() + left_s, dict[str, int](), False

        async def consult(chat: Chat) -> Reply:
            nonlocal was_asked
            was_asked = True
            reply = await self._link(server).ask(chat, server, until, on_sent)
            usage.update(reply.usage)
            self.on_usage(request, reply.usage)
            return reply

        result = await target.own.consult(request, found, consult)
        if result is None:
            if was_asked:
                log.warning("task %s: the answer of %s doesn't fit this task", request.task, target.stage)
            return None
        return Result(
            request.id, request.task, "ok", result, model=f"{server.model}@{server.host}", usage=usage
        )

    def _link(self, server: ChatServer) -> _Link:
        """The connections to a server; tasks with other settings share them."""
        key = _place(server)
        if key not in self._links:
            self._links[key] = _Link(self._make_client(server))
        return self._links[key]

    def use_only(self, servers: Collection[ChatServer]) -> None:
        """After a reload: only these servers are asked from now on. Connections to others are closed as soon
        as the requests that wait for them are done."""
        self._named = frozenset(servers)
        places = {_place(server) for server in servers}
        for key in [one for one in self._links if one not in places]:
            self._links.pop(key).close_when_idle()

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()
        self._links.clear()


def _place(server: ChatServer) -> Hashable:
    return server.url.rstrip("/"), server.model, server.key_file, server.ca_file


_condition = lru_cache(64)(make_condition)


def _may_leave(server: ChatServer, request: Request, found: Mapping[str, Any]) -> bool:
    """Whether the request fulfils ``only``. If the condition can't be evaluated, it doesn't."""
    if server.only is None:
        return True
    sender = (request.sender or "").removeprefix(DIRECT)
    payload = {"input": "\n".join(_texts(request.input)), "sender": sender, "result": dict(found)}
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
        self._waiting = 0
        self._is_leaving = False

    async def ask(
        self, chat: Chat, server: ChatServer, until: float, on_sent: Callable[[int], None]
    ) -> Reply:
        """:raises RemoteError: there is no answer in time, or the server failed a moment ago."""
        self._waiting += 1
        try:
            return await self._ask(chat, server, until, on_sent)
        finally:
            self._waiting -= 1
            if self._is_leaving and not self._waiting:
                await self.close()

    async def _ask(
        self, chat: Chat, server: ChatServer, until: float, on_sent: Callable[[int], None]
    ) -> Reply:
        now = time.monotonic()
        is_cut = until < now + server.timeout_s  # by the request's own deadline
        until = min(until, now + server.timeout_s)
        try:
            async with asyncio.timeout(until - now):
                await self._turns.acquire()
        except TimeoutError:
            raise RemoteError("too many requests wait for it") from None
        try:
            if (pause_s := self._asleep_until - time.monotonic()) > 0:
                raise RemoteError(f"it failed; it is asked again in {pause_s:.0f} s")
            redaction, sent = await asyncio.to_thread(_redacted, chat, server.redact)
            try:
                reply = await self._client.ask(sent, max(0.0, until - time.monotonic()), on_sent)
            except RemoteError as error:
                if error.is_of_server and not (is_cut and error.is_timeout):
                    self._failed(error.retry_after_s)
                raise
            self._failures = 0
            return await asyncio.to_thread(_restored, reply, redaction)
        finally:
            self._turns.release()

    def close_when_idle(self) -> None:
        self._is_leaving = True
        if not self._waiting:
            closing = asyncio.ensure_future(self.close())
            _CLOSING.add(closing)
            closing.add_done_callback(_CLOSING.discard)

    async def close(self) -> None:
        await self._client.close()

    def _failed(self, retry_after_s: float | None) -> None:
        """Begins a pause, unless one of the requests sent before has begun it."""
        now = time.monotonic()
        if now < self._asleep_until:
            return
        self._failures += 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10))
        if retry_after_s is not None:
            pause_s = max(FIRST_PAUSE_S, retry_after_s)
        self._asleep_until = now + pause_s


_CLOSING: set[asyncio.Future[None]] = set()


def _redacted(chat: Chat, names: Sequence[str]) -> tuple[Redaction, Chat]:
    """The chat as it leaves this node. Takes a while for long texts."""
    from edgeslm.remote.redaction import Redaction  # its expressions take memory

    redaction = Redaction(names, _texts(chat.messages) if names else ())
    if not names:
        return redaction, chat
    return redaction, replace(
        chat,
        messages=redaction.hide(chat.messages),
        tools=redaction.hide_schema(chat.tools),
        schema=redaction.hide_schema(chat.schema),
    )


def _restored(reply: Reply, redaction: Redaction) -> Reply:
    calls = [(name, redaction.restore(arguments)) for name, arguments in reply.calls]
    return replace(reply, text=redaction.restore(reply.text), calls=calls)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    is_list = isinstance(value, list | tuple)
    children = value.values() if isinstance(value, Mapping) else value if is_list else ()
    return [text for child in children for text in _texts(child)]


def _make_client(server: ChatServer) -> ChatClient:
    from edgeslm.remote.client import ChatClient  # few nodes ask servers

    key = None if server.key_file is None else partial(read_key, server.key_file)
    try:
        return ChatClient(
            server.url, server.model, read_key=key, ca_file=server.ca_file, is_local=server.is_local
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RemoteError(f"ca_file or proxy can't be used: {why}") from None
