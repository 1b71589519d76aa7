"""Nodes with a console for tests, and an HTTP client that acts as a browser or an attacker."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from edgeslm.console.host import ConsoleHost
from tests.support.apps import WAIT_S
from tests.support.brokers import free_port
from tests.support.nodes import Node, fake_configuration

TOKEN = "a-token-of-the-tests-0123456789"


@dataclass(frozen=True)
class Reply:
    """An HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Visitor:
    """An HTTP client of the console at ``port``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.cookie: str | None = None
        self.csrf: str | None = None

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str | None) -> Reply:
        """Sends a request: the keyword ``content_type`` becomes Content-Type, None removes a header."""
        sent: dict[str, str | None] = {"Host": self.host}
        if self.cookie is not None:
            sent["Cookie"] = self.cookie
        for name, value in headers.items():
            sent[name.replace("_", "-").title()] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None and "Content-Length" not in sent:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            stream = response.getheader("Content-Type") == "text/event-stream"
            found = b"" if stream else response.read()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, found)
        finally:
            connection.close()

    def change(self, path: str, body: Any = None, **headers: str | None) -> Reply:
        """Sends a POST of JSON, as the page does."""
        usual: dict[str, str | None] = {
            "content_type": "application/json",
            "origin": f"http://{self.host}",
            "x_edgeslm_secret": self.csrf,
        }
        return self.ask(path, "POST", json.dumps(body or {}).encode(), **{**usual, **headers})

    def sign_in(self, token: str = TOKEN, **headers: str | None) -> Reply:
        usual: dict[str, str | None] = {
            "content_type": "application/x-www-form-urlencoded",
            "origin": f"http://{self.host}",
        }
        before = self.ask("/login", cookie=None)
        given = re.search(r'name="csrf_token" value="(\w+)"', before.text)
        visit = before.headers["set-cookie"].partition(";")[0]
        body = urlencode({"token": token, "csrf_token": given[1] if given else ""}).encode()
        usual["cookie"] = visit if self.cookie is None else f"{self.cookie}; {visit}"
        reply = self.ask("/login", "POST", body, **{**usual, **headers})
        if reply.status == 303:
            self.cookie = reply.headers["set-cookie"].partition(";")[0]
            self.csrf = next(self.news())["csrf"]
        return reply

    def news(self) -> Iterator[dict[str, Any]]:
        """Events of the event stream; closing the iterator closes the connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", "/events", headers={"Host": self.host, "Cookie": self.cookie or ""})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            for line in response:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()

    def wait_for(self, part: str) -> Any:
        for news in self.news():
            if part in news:
                return news[part]
        raise AssertionError(f"the stream ended without {part}")


@contextmanager
def console_node(
    folder: Path, url: str, *, console: Mapping[str, Any] | None = None, **more: Any
) -> Iterator[Node]:
    """A node with fake engines and a running console."""
    port = free_port()
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    section = {"listen": f"127.0.0.1:{port}", "token_file": str(token), **(console or {})}
    with Node(folder, fake_configuration(url, folder, console=section, **more)) as node:
        wait_until_up(node)
        yield node


def wait_until_up(node: Node) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while node.extension(ConsoleHost).url is None:
        assert time.monotonic() < give_up_at, "the console doesn't come up"
        time.sleep(0.02)


def visitor_of(node: Node) -> Visitor:
    url = node.extension(ConsoleHost).url
    assert url is not None
    return Visitor(int(url.rpartition(":")[2]))
