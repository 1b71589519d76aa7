"""TCP proxy on the loopback interface that resets or blocks connections, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Passes connections to ``port`` on to the first of the target ports where somebody listens. All methods
    fit any thread.

    :meth:`cut` resets every connection. Between :meth:`close` and :meth:`open` nothing passes in either
    direction and nobody is told, as with a pulled cable: what was sent waits, and new connections are taken
    and stay silent.
    """

    def __init__(self, *target_ports: int) -> None:
        self._target_ports = target_ports
        self._loop = asyncio.new_event_loop()
        self._passable = asyncio.Event()
        self._passable.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(listener,), name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        self._soon(self._reset_all)

    def close(self) -> None:
        self._soon(self._passable.clear)

    def open(self) -> None:
        self._soon(self._passable.set)

    def stop(self) -> None:
        self._soon(self._loop.stop)
        self._thread.join()

    def _soon(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)

    def _run(self, listener: socket.socket) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=listener))
        self._loop.run_forever()
        server.close()
        self._reset_all()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        for pump in self._pumps:
            pump.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._pumps, return_exceptions=True))
        self._loop.close()

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            # Lingering for no time makes the close a reset, as a router's that has forgotten the connection.
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)
        self._writers.add(writer)
        try:
            await self._passable.wait()
            there, back = await self._connect()
        except OSError:  # no broker: the client sees its connection end
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(back)
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            for one in (writer, back):
                self._writers.discard(one)
                one.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for port in self._target_ports[:-1]:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return await asyncio.open_connection("127.0.0.1", self._target_ports[-1])

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK_BYTES):
                await self._passable.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort() if sink.transport.is_closing() else sink.close()
