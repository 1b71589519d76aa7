"""The official MCP client, connected to a node's API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from tests.support.apis import ApiClient
from tests.support.apps import WAIT_S

MODES = ("2026-07-28", "legacy")
"""The newest protocol, and the one before, with a handshake."""


@asynccontextmanager
async def connected(api: ApiClient, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {api.token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=WAIT_S) as http,
        Client(streamable_http_client(f"{api.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def with_client(api: ApiClient, use: Callable[[Client], Awaitable[Any]], mode: str = "auto") -> Any:
    async def run() -> Any:
        async with connected(api, mode) as client:
            return await use(client)

    return asyncio.run(run())


def error_of(api: ApiClient, use: Callable[[Client], Awaitable[Any]], mode: str) -> MCPError:
    """The error of the protocol that an action gives."""

    async def tried(client: Client) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await use(client)
        return caught.value

    found: MCPError = with_client(api, tried, mode)
    return found


def call(api: ApiClient, name: str, mode: str = "auto", **arguments: Any) -> Any:
    return with_client(api, lambda client: client.call_tool(name, arguments), mode)
