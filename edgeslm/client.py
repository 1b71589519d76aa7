"""For apps: ask a node something and get the answer. Sends again until it is there.

::

    with Client("mqtt://broker.local", "press-hall-4") as client:
        result = client.request("triage", "Spindle 3 smells of burnt oil")

and in asyncio::

    async with Client("mqtt://broker.local", "press-hall-4") as client:
        result = await client.request_async("triage", "Spindle 3 smells of burnt oil")

Needs the MQTT client library and nothing else of what a node needs. Safe to share between threads. Knows the
protocol, no configuration and no models.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeslm.bus.address import BrokerAddress, read_password
from edgeslm.bus.desk import Desk
from edgeslm.bus.errand import FIRST_INTERVAL_S, Errand, Event, Letter
from edgeslm.bus.network import Network, Settings
from edgeslm.bus.protocol import Topics, check_topic_name, encode_request
from edgeslm.errors import BrokerError, UnknownTask
from edgeslm.messages import Chunk, Result
from edgeslm.topics import DEFAULT_PREFIX

__all__ = ["Client"]

OnChunk = Callable[[Chunk], None]


class Client:
    """A connection of an app to the node ``node`` at the broker ``url`` (``mqtt[s]://[user[:password]@]host``).

    The session outlives a broken connection by ``session_expiry_s``, so that a result that comes meanwhile
    isn't lost. A request is sent again until it has its result: after each reconnect, when the node was
    busy, and after ``repeat_after_s`` seconds without a result, then after twice as long, up to 30 s. A node
    knows a repeat and doesn't run it twice.

    Results come to a topic of this client alone, below ``<base>/res/<task>/<name>/`` where it has a ``name``:
    that of its login, which a broker's access list goes by (``edgeslm provision acl``).
    """

    def __init__(
        self,
        url: str,
        node: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        name: str | None = None,
        username: str | None = None,
        password: str | None = None,
        password_file: Path | None = None,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        connect_timeout_s: float = 15.0,
        session_expiry_s: int = 300,
        repeat_after_s: float = FIRST_INTERVAL_S,
    ) -> None:
        self._url = url
        self._login = username, password, password_file
        self._tls_files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
        self._connect_timeout_s = connect_timeout_s
        self._repeat_after_s = repeat_after_s
        self._node = node
        self._topics = Topics(node, prefix)
        alone = f"app-{secrets.token_hex(8)}"
        self._name = f"{name}/{alone}" if name is not None else alone
        self._settings = Settings(
            client_id=f"{prefix}-{alone}",
            keepalive_s=15,
            session_expiry_s=session_expiry_s,
            receive_maximum=256,
            maximum_packet_size=16 * 1024 * 1024,
            keeps_session=False,
        )
        self._network: Network | None = None
        self._desk = self._make_desk()

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
        username, password, password_file = self._login
        address = BrokerAddress.parse(
            self._url,
            username=username,
            password=read_password(password_file) if password_file is not None else password,
            **self._tls_files,
        )
        self._desk = self._make_desk()
        self._network = Network(address, self._settings, self._desk, first_pause_s=0.5, longest_pause_s=15.0)
        self._network.start()
        try:
            self._desk.wait_connected(self._connect_timeout_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnects; requests that still wait raise BrokerError."""
        network, self._network = self._network, None
        if network is not None:
            self._desk.close(BrokerError("The client was closed before the result came."))
            network.stop(5.0)

    @property
    def node_state(self) -> str | None:
        """What the node last said of itself (``online``, ``offline`` ...); None if it never did."""
        return self._desk.node_state

    def request(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        on_chunk: OnChunk | None = None,
    ) -> Result:
        """Sends one request, again if need be, and waits up to ``timeout`` seconds for its result.

        An error result is a result: look at ``status``. ``busy`` is one only if the node asks for more
        patience than is left. ``on_chunk`` asks for streaming and is called in this thread with each piece of
        text; pieces may be missing, the result is whole.

        :raises TimedOut: no result came in time; the node has been told not to start after that.
        :raises BrokerError: the broker refuses the request; no node of that name was ever there, or it said
            goodbye and the broker keeps nothing for it; the client was closed.
        :raises ProtocolError: what came is no result.
        :raises RequestError: what can't be sent: a task that is no topic level, more than the broker takes.
        """
        desk = self._desk
        errand = self._errand(desk, task, input, options, timeout, on_chunk)
        inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
        desk.enlist(task, errand.letter, inbox.put)
        try:
            event: Event | None = None
            while (result := errand.advance(event, time.monotonic())) is None:
                try:
                    event = inbox.get(timeout=errand.wait_s(time.monotonic()))
                except queue.Empty:
                    event = None
            return result
        finally:
            desk.forget(errand.letter)

    async def request_async(
        self,
        task: str,
        input: str | Mapping[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        timeout: float = 60.0,
        on_chunk: OnChunk | None = None,
    ) -> Result:
        """As :meth:`request`, for asyncio: needs no thread, and ``on_chunk`` is called in the loop."""
        desk = self._desk
        errand = self._errand(desk, task, input, options, timeout, on_chunk)
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Event] = asyncio.Queue()

        def put(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                loop.call_soon_threadsafe(inbox.put_nowait, event)

        desk.enlist(task, errand.letter, put)
        try:
            event: Event | None = None
            while (result := errand.advance(event, time.monotonic())) is None:
                event = None
                # Not wait_for: before Python 3.12 it swallows a cancel that comes with an event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(errand.wait_s(time.monotonic())):
                        event = await inbox.get()
            return result
        finally:
            desk.forget(errand.letter)

    def _make_desk(self) -> Desk:
        return Desk(self._topics, self._name)

    def _errand(
        self,
        desk: Desk,
        task: str,
        input: str | Mapping[str, Any],
        options: Mapping[str, Any] | None,
        timeout: float,
        on_chunk: OnChunk | None,
    ) -> Errand:
        if self._network is None:
            raise BrokerError("The client isn't open; use it in a with statement, or call open() first.")
        if on_chunk is not None:
            options = {"stream": True, **(options or {})}
        topic = self._topics.request(task)
        if self._topics.task_of(topic) != task:
            raise UnknownTask(f"There is no task {task!r}: the name of a task is one level of a topic.")
        check_topic_name(topic)
        payload = encode_request(input, options=options)
        letter = Letter(topic, payload, desk.reply_topic(task), secrets.token_hex(8).encode())
        return Errand(
            letter,
            desk.send,
            node=self._node,
            node_state=lambda: desk.node_state,
            now=time.monotonic(),
            timeout_s=timeout,
            interval_s=self._repeat_after_s,
            on_chunk=on_chunk,
        )
