"""For apps: ask a node something and get the answer. Sends again until it is there.

::

    with Client("mqtt://broker.local", "press-hall-4") as client:
        result = client.request("triage", "Spindle 3 smells of burnt oil")

and in asyncio::

    async with Client("mqtt://broker.local", "press-hall-4") as client:
        result = await client.request_async("triage", "Spindle 3 smells of burnt oil")

Needs the MQTT client library and nothing else of what a node needs. Safe to share between threads. Knows the
protocol, no configuration and no models. ``docs/guides/apps.md`` shows more of it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypedDict

from edgeslm.client.pending_request import FIRST_INTERVAL_S, PendingMessage, PendingRequest
from edgeslm.client.queues import LoopQueue, ThreadQueue
from edgeslm.client.session import ClientSession
from edgeslm.client.stream import Stream
from edgeslm.client.subscription import Listening
from edgeslm.errors import (
    BrokerError,
    InvalidRequest,
    UnknownTask,
)
from edgeslm.messages import Chunk, Result
from edgeslm.mqtt.broker_address import BrokerAddress, Login, read_password
from edgeslm.mqtt.connection import PAUSES_S, ConnectionSettings, Network
from edgeslm.protocol.codec import MAX_REPLY_TOPIC_BYTES, Topics, check_topic_name, encode_request
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.feedback import Feedback, encode_feedback
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, NODE_CHANNELS, filter_fault


class OnChunk(Protocol):
    """Gets each piece of a text."""

    def __call__(self, chunk: Chunk, /) -> Any: ...


class Options(TypedDict, total=False):
    """The options of a request, for editors and type checkers. A task takes those that ``info`` lists.

    >>> Options(max_tokens=64, temperature=0)
    {'max_tokens': 64, 'temperature': 0}
    """

    max_tokens: int
    temperature: float
    top_p: float
    repetition_penalty: float
    stop: str | list[str]
    seed: int
    stream: bool
    priority: int
    deadline_ms: int
    labels: list[str] | dict[str, str]
    schema: Mapping[str, Any]
    knowledge: list[str]
    context: str
    sources: str
    since: float
    until: float


class Client:
    """A connection of an app to the node ``node``, or to the members of ``pool``, at the broker ``url``
    (``mqtt[s]://[user[:password]@]host``, or an address that has its login with it).

    The session outlives a broken connection by ``session_expiry_s``, so that a result that comes meanwhile
    isn't lost. A request is sent again until it has its result: after each reconnect, when the node was
    busy, and after ``repeat_after_s`` seconds without a result, then after twice as long, up to 30 s. A node
    knows a repeat and doesn't run it twice. Who stops waiting earlier, whether by an exception, a cancelled
    asyncio task or a time-out, has it cancelled on the node.

    Results come to a topic of this client alone, below ``<base>/res/<task>/<name>/`` where it has a ``name``:
    that of its login, which a broker's access list goes by (``edgeslm provision acl``).
    """

    def __init__(
        self,
        url: str | BrokerAddress,
        node: str | None = None,
        *,
        pool: str | None = None,
        prefix: str = DEFAULT_PREFIX,
        name: str | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: Path | str | None = None,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        connect_timeout_s: float = 15.0,
        session_expiry_s: int = 300,
        repeat_after_s: float = FIRST_INTERVAL_S,
    ) -> None:
        self._url = url
        self._login = Login(username, password, _path(ca_file), _path(cert_file), _path(key_file))
        self._password_file = _path(password_file)
        self._connect_timeout_s = connect_timeout_s
        self._repeat_after_s = repeat_after_s
        if (node is None) == (pool is None):
            raise InvalidRequest("A client asks a node or a pool; name one of them.")
        self._topics = Topics.of_pool(pool, prefix) if pool is not None else Topics(node or "", prefix)
        self._node = self._topics.node
        alone = f"app-{secrets.token_hex(8)}"
        self._name = f"{name}/{alone}" if name is not None else alone
        self._settings = ConnectionSettings(
            client_id=f"{prefix}-{alone}",
            keepalive_s=15,
            session_expiry_s=session_expiry_s,
            receive_maximum=256,
            maximum_packet_size=16 * 1024 * 1024,
            keeps_session=False,
        )
        self._network: Network | None = None
        self._session = self._make_session()

    def __enter__(self) -> Client:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        await asyncio.to_thread(self.open)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.close)

    def open(self) -> None:
        """Connects; BrokerError says what is wrong if that fails the first time."""
        address = self._url
        if isinstance(address, str):
            password = read_password(self._password_file) or self._login.password
            address = BrokerAddress.parse(address, replace(self._login, password=password))
        self._session = self._make_session()
        self._network = Network(address, self._settings, self._session, PAUSES_S)
        self._network.start()
        try:
            self._session.wait_connected(self._connect_timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnects; requests that still wait raise BrokerError, what listens ends."""
        network, self._network = self._network, None
        if network is not None:
            self._session.close(BrokerError("The client was closed before the result came."))
            network.stop(5.0)

    @property
    def node_state(self) -> str | None:
        """What the node last said of itself (``online``, ``offline`` ...); None if it never did.

        For a pool nobody speaks but its dispatcher, if it has one.
        """
        return self._session.node_state

    def request(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Options | Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        on_chunk: OnChunk | None = None,
    ) -> Result:
        """Sends one request, again if need be, and waits up to ``timeout`` seconds for its result.

        An error result is a result: look at ``status``, or let ``Result.unwrap`` raise it. ``busy`` is one
        only if the node asks for more patience than is left. ``on_chunk`` asks for streaming and is called in
        this thread with each piece of text; pieces may be missing, the result is whole.

        >>> client.request("triage", "Spindle 3 smells of burnt oil").unwrap()["label"]
        'critical'

        :raises TimedOut: no result came in time; the node has been told not to start after that.
        :raises BrokerError: the broker refuses the request; no node of that name was ever there, or it said
            goodbye and the broker keeps nothing for it; the client was closed.
        :raises ProtocolError: what came is no result, or the node is of a version too far from this one.
        :raises RequestError: what can't be sent: a task that is no topic level, more than the broker takes.
        """
        with self._stream(task, input, options, timeout, streams=on_chunk is not None) as stream:
            for chunk in stream:
                if on_chunk is not None:
                    on_chunk(chunk)
        return stream.result

    async def request_async(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Options | Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        on_chunk: OnChunk | None = None,
    ) -> Result:
        """As :meth:`request`, for asyncio: needs no thread, and ``on_chunk`` is called in the loop."""
        with self._stream(task, input, options, timeout, streams=on_chunk is not None) as stream:
            async for chunk in stream:
                if on_chunk is not None:
                    on_chunk(chunk)
        return stream.result

    def stream(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Options | Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
    ) -> Stream:
        """One request whose text comes in pieces, to be iterated by ``for`` or ``async for``.

        >>> with client.stream("chat", "What does E42 mean?") as answer:
        ...     for chunk in answer:
        ...         print(chunk.text, end=" ")
        ...     print(f"({answer.result.status})")
        What does E42 mean? (ok)

        Iterating sends and raises as :meth:`request` does. Leaving early cancels the request on the node.
        """
        return self._stream(task, input, options, timeout, streams=True)

    def listen(self, *channels: str, topics: Sequence[str] = (), timeout: float | None = None) -> Listening:
        """What a node tells without being asked, to be iterated by ``for`` or ``async for``.

        ``channels`` stand below the node's base topic and may have wildcards: ``state``, ``info``,
        ``health``, ``event/ROUTE`` or ``event/+``, ``dead``, ``res/TASK``. ``topics`` are whole topics or
        filters, such as the ``to`` of a route. ``timeout`` is the longest silence, in seconds, before it
        raises TimedOut.

        >>> with client.listen("state", timeout=10) as said:
        ...     print(next(iter(said)).json()["state"])
        online

        :raises InvalidRequest: there is no such channel, or no such filter is possible.
        """
        self._check_open()
        for channel in channels:
            if channel.split("/")[0] not in NODE_CHANNELS:
                raise InvalidRequest(f"A node has no channel {channel!r}; it has {', '.join(NODE_CHANNELS)}.")
        filters = [*(f"{self._topics.base}/{channel}" for channel in channels), *topics]
        if not filters:
            raise InvalidRequest("Nothing to listen to; name a channel or a topic.")
        for one in filters:
            if fault := filter_fault(one):
                raise InvalidRequest(f"The topic filter {one!r} {fault}.")
        return Listening(self._session, filters, timeout_s=timeout, patience_s=self._connect_timeout_s)

    def feedback(
        self,
        task: str,
        *,
        input: str | None = None,
        id: str | None = None,
        label: str | None = None,
        fields: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Says what should have been made of ``input``, or of the request ``id``; the node keeps it.

        Returns when the broker has it. There is no answer: what a node can't keep, it counts in ``health``.

        >>> client.feedback("triage", input="Spindle 3 smells of burnt oil", label="critical")

        :raises InvalidRequest: not exactly one of ``input`` and ``id``, and one of ``label`` and ``fields``;
            or the client is one of a pool, whose nodes keep corrections of their own.
        :raises TimedOut: the broker didn't take it in time.
        :raises BrokerError: it was refused, or no node is there to get it.
        """
        note = self._note(Feedback(task, input, id, label, fields), timeout)
        inbox = ThreadQueue()
        self._session.enlist(task, note.outgoing, inbox.put)
        try:
            event = None
            while not note.advance(event, time.monotonic()):
                event = inbox.take(note.wait_s(time.monotonic()))
        finally:
            self._session.forget(note.outgoing)

    async def feedback_async(
        self,
        task: str,
        *,
        input: str | None = None,
        id: str | None = None,
        label: str | None = None,
        fields: Mapping[str, Any] | None = None,
        timeout: float = 60.0,
    ) -> None:
        """As :meth:`feedback`, for asyncio."""
        note = self._note(Feedback(task, input, id, label, fields), timeout)
        inbox = LoopQueue()
        self._session.enlist(task, note.outgoing, inbox.put)
        try:
            event = None
            while not note.advance(event, time.monotonic()):
                event = await inbox.take(note.wait_s(time.monotonic()))
        finally:
            self._session.forget(note.outgoing)

    def _make_session(self) -> ClientSession:
        return ClientSession(self._topics, self._name)

    def _check_open(self) -> None:
        if self._network is None:
            raise BrokerError("The client isn't open; use it in a with statement, or call open() first.")

    def _note(self, feedback: Feedback, timeout: float) -> PendingMessage:
        self._check_open()
        if self._topics.pool is not None:
            raise InvalidRequest("A pool takes no corrections: tell them to one of its nodes.")
        correlation = secrets.token_hex(8).encode()
        outgoing = OutgoingMessage(self._topics.feedback, encode_feedback(feedback), correlation=correlation)
        return PendingMessage(
            outgoing, self._session, node=self._node, now=time.monotonic(), timeout_s=timeout
        )

    def _stream(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Options | Mapping[str, Any] | None,
        timeout: float,
        *,
        streams: bool,
    ) -> Stream:
        self._check_open()
        asked: dict[str, Any] = {"stream": True, **(options or {})} if streams else {**(options or {})}
        topic = self._topics.request(task)
        if self._topics.task_of(topic) != task:
            raise UnknownTask(f"There is no task {task!r}: the name of a task is one level of a topic.")
        check_topic_name(topic)
        payload = encode_request(input, options=asked)
        reply_to = self._session.reply_topic(task)
        if (size := len(reply_to.encode())) > MAX_REPLY_TOPIC_BYTES:
            raise InvalidRequest(
                f"The topic of the result would have {size} bytes and may have {MAX_REPLY_TOPIC_BYTES}; "
                "take a shorter prefix or name."
            )
        correlation = secrets.token_hex(8).encode()
        outgoing = OutgoingMessage(topic, payload, response_topic=reply_to, correlation=correlation)
        pending = PendingRequest(
            outgoing, self._session, node=self._node, timeout_s=timeout, interval_s=self._repeat_after_s
        )
        return Stream(self._session, task, self._topics.cancel, pending)


def _path(file: Path | str | None) -> Path | None:
    return None if file is None else Path(file)
