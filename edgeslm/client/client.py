"""Client for apps: sends requests to a node or pool, retries them, and returns the results.

::

    with Client("mqtt://broker.local", "press-hall-4") as client:
        result = client.request("triage", "Spindle 3 smells of burnt oil")

and in asyncio::

    async with Client("mqtt://broker.local", "press-hall-4") as client:
        result = await client.request_async("triage", "Spindle 3 smells of burnt oil")

The client's only dependency is paho-mqtt. Thread-safe. More examples: ``docs/guides/apps.md``.
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
from edgeslm.protocol.codec import MAX_REPLY_TOPIC_BYTES, Topics, encode_request
from edgeslm.protocol.delivery import OutgoingMessage
from edgeslm.protocol.feedback import Feedback, encode_feedback
from edgeslm.protocol.topic_filters import DEFAULT_PREFIX, NODE_CHANNELS, filter_fault
from edgeslm.protocol.topics import check_topic_name


class OnChunk(Protocol):
    """Called with each piece of a streamed answer."""

    def __call__(self, chunk: Chunk, /) -> Any: ...


class Options(TypedDict, total=False):
    """Options of a request, typed for editors and type checkers. The ``info`` message of a node lists the
    options that each task accepts.

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
    tools: list[Mapping[str, Any]]
    tool_choice: str
    parallel_tool_calls: bool
    knowledge: list[str]
    context: str
    sources: str
    since: float
    until: float


class Client:
    """An app's connection to ``node``, or to the members of ``pool``. ``url`` is the address of the broker,
    as ``mqtt[s]://[user[:password]@]host`` or as a ``BrokerAddress``, which includes the login.

    If the connection breaks, the broker keeps the session for ``session_expiry_s`` seconds, so that no result
    is lost. A request is resent until its result arrives: after each reconnect, when the node was busy, and
    after ``repeat_after_s`` seconds without a result. The time before the next retry doubles with each retry,
    up to 30 s. Nodes deduplicate requests. When a caller stops waiting, because of an exception, a cancelled
    asyncio task or a timeout, the client cancels the request on the node.

    Each client has its own reply topic. With ``name``, the reply topic is below
    ``<base>/res/<task>/<name>/``. If the broker has an access list (``edgeslm provision acl``), set ``name``
    to the login name.
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
        """Connects to the broker. :raises BrokerError: the first attempt to connect failed."""
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
        """Disconnects: waiting requests raise BrokerError, subscriptions end."""
        network, self._network = self._network, None
        if network is not None:
            self._session.close(BrokerError("The client was closed before the result came."))
            network.stop(5.0)

    @property
    def node_state(self) -> str | None:
        """The node's last published state, such as ``online`` or ``offline``; None if there is none.

        For a pool, this is the state of its dispatcher, if there is one.
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
        """Sends a request, with retries, and waits up to ``timeout`` seconds for its result.

        Error results are returned too: check ``status``, or call ``Result.unwrap``, which raises. A ``busy``
        result is returned only if the retry would be after the timeout. With ``on_chunk``, the answer is
        streamed: ``on_chunk`` is called in the calling thread with each piece of text. Pieces may be missing;
        the result is complete.

        >>> client.request("triage", "Spindle 3 smells of burnt oil").unwrap()["label"]
        'critical'

        :raises TimedOut: no result came in time; the node won't start the request after that.
        :raises BrokerError: the broker refuses the request; no node of that name has connected to the broker,
            or the node has stopped; the client was closed.
        :raises ProtocolError: the answer isn't a result, or the node's protocol version is incompatible.
        :raises RequestError: the task name is invalid, or the request is too large for the broker.
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
        """Like :meth:`request`, for asyncio. Uses no additional thread; ``on_chunk`` is called in the event
        loop."""
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
        """Sends a request with a streamed answer; iterate the stream with ``for`` or ``async for``.

        >>> with client.stream("chat", "What does E42 mean?") as answer:
        ...     for chunk in answer:
        ...         print(chunk.text, end=" ")
        ...     print(f"({answer.result.status})")
        What does E42 mean? (ok)

        Iterating sends the request and raises as :meth:`request` does. Leaving the loop early cancels the
        request on the node.
        """
        return self._stream(task, input, options, timeout, streams=True)

    def listen(self, *channels: str, topics: Sequence[str] = (), timeout: float | None = None) -> Listening:
        """Subscribes to topics of a node; iterate the messages with ``for`` or ``async for``.

        ``channels`` are topics or filters below the node's base topic, such as ``state``, ``info``,
        ``health``, ``event/ROUTE``, ``event/+``, ``dead`` or ``res/TASK``. ``topics`` are full topics or
        filters, such as the ``to`` of a route. After ``timeout`` seconds without a message, iterating raises
        TimedOut.

        >>> with client.listen("state", timeout=10) as said:
        ...     print(next(iter(said)).json()["state"])
        online

        :raises InvalidRequest: an unknown channel or an invalid filter.
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
        by: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Sends the correct answer for ``input``, or for the request ``id``; the node stores it.

        Returns after the broker's acknowledgement. The node sends no answer; it counts rejected corrections
        in ``health``.

        >>> client.feedback("triage", input="Spindle 3 smells of burnt oil", label="critical")

        :param by: this sender's name, if the node's configuration names the senders.
        :raises InvalidRequest: not exactly one of ``input`` and ``id`` is given, or not exactly one of
            ``label`` and ``fields``, or the client is for a pool, where each node stores its own feedback.
        :raises TimedOut: no acknowledgement by the broker in time.
        :raises BrokerError: the broker refused the message, or no node is subscribed.
        """
        note = self._note(Feedback(task, input, id, label, fields), by, timeout)
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
        by: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Like :meth:`feedback`, for asyncio."""
        note = self._note(Feedback(task, input, id, label, fields), by, timeout)
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

    def _note(self, feedback: Feedback, by: str | None, timeout: float) -> PendingMessage:
        self._check_open()
        if self._topics.pool is not None:
            raise InvalidRequest("A pool takes no corrections: tell them to one of its nodes.")
        correlation = secrets.token_hex(8).encode()
        topic = self._topics.feedback if by is None else self._topics.feedback_by(by)
        check_topic_name(topic)
        outgoing = OutgoingMessage(topic, encode_feedback(feedback), correlation=correlation)
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
