from __future__ import annotations

import re
import socket
import ssl
import struct
import subprocess
import sys
from http.client import HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode

import trustme

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
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as silent:
            assert silent.recv(1) == b"", "a handshake that doesn't come is given up"


def test_its_log_lines_have_the_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack("!I", 2) + b"[]")
        fd = theirs.fileno()
        command = [sys.executable, "-m", "edgeslm.console.worker", str(fd), "DEBUG"]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, timeout=WAIT_S)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} DEBUG asyncio: ", done.stderr)
