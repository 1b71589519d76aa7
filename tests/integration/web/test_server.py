from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import uvicorn

from edgeslm.web.server import Server, listen


class Connection:
    """As uvicorn keeps them."""

    def __init__(self, cycle: Any) -> None:
        self.cycle = cycle
        self.is_open = True
        self.transport = SimpleNamespace(abort=self.end)

    def end(self) -> None:
        self.is_open = False


class Asking(Connection):
    """Behind which each look finds another request."""

    @property
    def cycle(self) -> Any:
        return SimpleNamespace(response_complete=True)

    @cycle.setter
    def cycle(self, value: Any) -> None: ...


def test_who_never_asks_is_let_go_and_nobody_else() -> None:
    silent, kept_alive = Connection(None), Connection(SimpleNamespace(response_complete=True))
    streaming = Connection(SimpleNamespace(response_complete=False))
    asking = Asking(None)
    server = Server(uvicorn.Config("nothing:nothing"))
    connections: Any = {silent, kept_alive, streaming, asking}
    server.server_state.connections = connections

    async def main() -> None:
        looking = asyncio.create_task(server.hang_up_on_idlers(0.01))
        while silent.is_open or kept_alive.is_open:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # more looks
        looking.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert (streaming.is_open, asking.is_open) == (True, True)


def test_small_pieces_leave_at_once() -> None:
    """asyncio sets TCP_NODELAY only if the socket's protocol number is given: 40 ms until the first piece."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
