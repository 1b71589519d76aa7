from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
import subprocess
import sys
from http.client import HTTPSConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import trustme
import uvicorn

from edgeslm.console.worker import ConsoleServer
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.consoles import TOKEN, console_node, visitor_of


def test_it_speaks_tls(broker: Mosquitto, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert.pem", append=True)
    files = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with console_node(tmp_path, broker.url, console=files) as node:
        port = visitor_of(node).port
        connection = HTTPSConnection("localhost", port, context=context, timeout=WAIT_S)
        connection.request("GET", "/login")
        page = connection.getresponse()
        given = re.search(rb'name="csrf_token" value="(\w+)"', page.read())
        assert given is not None
        headers = {
            "Origin": f"https://localhost:{port}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Cookie": page.headers["Set-Cookie"].partition(";")[0],
        }
        fields = {"token": TOKEN, "csrf_token": given[1].decode()}
        connection.request("POST", "/login", urlencode(fields), headers)
        response = connection.getresponse()
        assert response.status == 303
        cookie = response.headers["Set-Cookie"]
        assert cookie.startswith("__Host-edgeslm=") and "; Secure" in cookie
        connection.close()


def test_its_log_lines_have_the_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack("!I", 2) + b"[]")
        fd = theirs.fileno()
        command = [sys.executable, "-m", "edgeslm.console.worker", str(fd), "DEBUG"]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, timeout=WAIT_S)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} DEBUG asyncio: ", done.stderr)


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
    server = ConsoleServer(uvicorn.Config("nothing:nothing"))
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
