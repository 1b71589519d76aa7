"""Nodes with an HTTP API for tests, and requests to them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeslm.api.host import ApiHost
from edgeslm.config.task_kinds import POSSIBLE
from edgeslm.node.daemon import WAITS, Waits
from tests.support.apps import WAIT_S
from tests.support.brokers import free_port
from tests.support.consoles import Reply
from tests.support.nodes import TASKS, Node, fake_configuration

TOKENS = {"app": "token-of-the-app-012345", "other": "token-of-another-0123", "few": "token-for-few-tasks-01"}
TASKS_OF_API = {**TASKS, "say": {"kind": "generate", "model": "small", "allow": list(POSSIBLE["generate"])}}


@dataclass(frozen=True)
class ApiClient:
    """Sends requests to the API at ``port`` with a token."""

    port: int
    token: str | None = TOKENS["app"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str | None) -> Reply:
        """POST if there is a body, which is JSON unless it is bytes; a header of None is left out."""
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}"}
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        sent |= {name.replace("_", "-").title(): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_host=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            response = connection.getresponse()
            found = response.read()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, found)
        finally:
            connection.close()

    def chat(self, model: str, text: str, headers: Mapping[str, str] | None = None, **more: Any) -> Reply:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **more}
        return self.ask("/v1/chat/completions", body, **(headers or {}))


@contextmanager
def api_node(
    folder: Path, url: str, *, api: Mapping[str, Any] | None = None, waits: Waits = WAITS, **more: Any
) -> Iterator[Node]:
    """A node with fake engines, three clients and a running API."""
    tokens = folder / "api-tokens"
    lines = [f"{name} {token}" for name, token in TOKENS.items()]
    tokens.write_text("\n".join(lines) + " tasks=triage\n")
    section = {"listen": f"127.0.0.1:{free_port()}", "tokens": str(tokens), **(api or {})}
    more = {"tasks": TASKS_OF_API, **more}
    with Node(folder, fake_configuration(url, folder, api=section, **more), waits=waits) as node:
        wait_until_up(node)
        yield node


def wait_until_up(node: Node) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while node.extension(ApiHost).url is None or node.daemon.health()["state"] != "online":
        assert time.monotonic() < give_up_at, "the API doesn't come up"
        time.sleep(0.02)


def client_of(node: Node, name: str | None = "app") -> ApiClient:
    url = node.extension(ApiHost).url
    assert url is not None
    return ApiClient(int(url.rpartition(":")[2]), TOKENS[name] if name is not None else None)
