"""MCP server by the official SDK, over streamable HTTP: a node's tasks as tools, and their document
collections as resources.

The server keeps no sessions: each POST is complete in itself, and has the token of its client. A client
cancels its request by closing the connection. Clients of the protocol before 2026-07-28 send a message
instead, which names the request by its number. These clients get an id of a session, since several clients
with one token use the same numbers. Source: the Model Context Protocol's specification.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import quote, unquote

from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from edgeslm import __version__
from edgeslm.api.dialect import Told, result_of
from edgeslm.api.node import Client, NodeLink, Question
from edgeslm.api.node import Tool as TaskTool
from edgeslm.api.web import TAKE_S, read_api_body
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.web.server import Refusal

SESSION = "mcp-session-id"
CANCELLED = -32800
"""Error code of a cancelled request, as in the Language Server Protocol."""
SCHEME = "edgeslm:///knowledge/"
"""Start of the URIs of collections; a document's name follows that of its collection."""
Context = ServerRequestContext[Any, Request]


class McpServer:
    """ASGI application for MCP clients; requests are answered within ``async with``."""

    def __init__(self, node: NodeLink, settings: Mapping[str, Any]) -> None:
        self._node = node
        self._body_bytes = settings["body_bytes"]
        server = Server(
            "edgeslm",
            version=__version__,
            title=settings["node"],
            get_tool_input_schema=lambda name: None,  # no argument is repeated in a header
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
        )
        self._manager = StreamableHTTPSessionManager(
            server, stateless=True, max_request_body_size=self._body_bytes
        )
        self._calls: dict[tuple[str, str, str], asyncio.Future[Told]] = {}
        """Running calls, by client, session and number of the request."""
        self._running: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> McpServer:
        logging.getLogger("mcp").setLevel("CRITICAL")  # its lines may have texts of requests
        self._running = self._manager.run()
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        if self._running is not None:
            await self._running.__aexit__(*exception)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a POST, with the same limits as other paths have.

        :raises Refusal: the body is too long or too slow. :raises InvalidRequest: it is no JSON.
        """
        request = Request(scope, receive)
        body = await read_api_body(request, self._body_bytes)
        message = parse_json(decode_text(body))
        method = message.get("method") if isinstance(message, dict) else None
        if method == "notifications/cancelled":
            self._cancel(request, message.get("params"))
        session = secrets.token_hex(16).encode() if method == "initialize" else None
        is_read = False

        async def receive_again() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_in_time(message: Message) -> None:
            if session is not None and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (SESSION.encode(), session)]}
            async with asyncio.timeout(TAKE_S):
                await send(message)

        try:
            await self._manager.handle_request(scope, receive_again, send_in_time)
        except* TimeoutError:  # the client is too slow
            pass

    def _cancel(self, request: Request, params: Any) -> None:
        """Cancels the call that a message names."""
        number = params.get("requestId") if isinstance(params, Mapping) else None
        session = request.headers.get(SESSION)
        call = self._calls.get((request.state.client.name, session or "", repr(number)))
        if session and call is not None:
            call.cancel()

    async def _list_tools(self, context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        tools = self._node.tools(_client(context)).values()
        return ListToolsResult(tools=[_tool(one) for one in tools])

    async def _call_tool(self, context: Context, params: CallToolRequestParams) -> CallToolResult:
        client = _client(context)
        tools = self._node.tools(client)
        tool = tools.get(params.name)
        if tool is None:
            there = ", ".join(tools) or "none"
            raise MCPError(
                INVALID_PARAMS, f"There is no tool {params.name[:100]!r} here; there are: {there}."
            )
        try:
            question = _question(tool, params.arguments or {})
            told = await self._ask(context, client, question)
        except Refusal as refusal:
            return CallToolResult(content=[TextContent(text=str(refusal))], is_error=True)
        return CallToolResult(
            content=[TextContent(text=told.text)], structured_content=dict(told.fields), is_error=False
        )

    async def _ask(self, context: Context, client: Client, question: Question) -> Told:
        """:raises Refusal: the result is an error. :raises MCPError: the client cancelled the call."""
        session = context.request.headers.get(SESSION, "") if context.request is not None else ""
        key = (client.name, session, repr(context.request_id))
        call = asyncio.ensure_future(result_of(self._node.ask(client, question, None)))
        self._calls[key] = call
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the connection is closed
                raise
            raise MCPError(CANCELLED, "The client cancelled this.") from None
        finally:
            if self._calls.get(key) is call:
                del self._calls[key]

    async def _list_resources(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        resources = [
            Resource(
                name=name,
                uri=SCHEME + name,
                description=f"The documents of the collection {name}, the last added first",
                mime_type="application/json",
            )
            for name in self._collections(_client(context))
        ]
        return ListResourcesResult(resources=resources)

    async def _list_templates(
        self, context: Context, params: PaginatedRequestParams | None
    ) -> ListResourceTemplatesResult:
        template = ResourceTemplate(
            name="document",
            uri_template=f"{SCHEME}{{collection}}/{{+source}}",
            description="The text of a document; the list of a collection has the URIs of its documents",
            mime_type="text/plain",
        )
        there = self._collections(_client(context))
        return ListResourceTemplatesResult(resource_templates=[template] if there else [])

    async def _read_resource(self, context: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        client, uri = _client(context), params.uri
        name, _, source = uri.removeprefix(SCHEME).partition("/")
        there = self._collections(client)
        if not uri.startswith(SCHEME) or name not in there:
            sentence = f"There is no resource {uri[:200]!r} here; there are: {', '.join(there) or 'none'}."
            raise MCPError(INVALID_PARAMS, sentence)
        try:
            told = await result_of(self._node.browse(client, name, unquote(source) or None))
        except Refusal as refusal:
            code = INVALID_PARAMS if refusal.status == 400 else INTERNAL_ERROR
            raise MCPError(code, str(refusal)) from None
        if source:
            text, kind = told.result["text"], "text/plain"
            if told.result["is_cut"]:
                text += "\n\n[The rest of this document is left out.]"
        else:
            documents = [
                {**one, "uri": f"{SCHEME}{name}/{quote(one['source'])}"} for one in told.result["documents"]
            ]
            found = {"documents": documents, "total": told.result["total"]}
            text, kind = json.dumps(found, ensure_ascii=False), "application/json"
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, text=text, mime_type=kind)])

    def _collections(self, client: Client) -> list[str]:
        """The collections of the client's tools, each once."""
        tools = self._node.tools(client).values()
        return list(dict.fromkeys(name for tool in tools for name in tool.collections))


def _client(context: Context) -> Client:
    if context.request is None:  # other transports have none
        raise MCPError(INTERNAL_ERROR, "This isn't a request over HTTP.")
    client: Client = context.request.state.client
    return client


def _tool(tool: TaskTool) -> Tool:
    return Tool(
        name=tool.name,
        description=tool.description,
        input_schema=dict(tool.input),
        output_schema=dict(tool.output),
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=tool.is_open),
    )


def _question(tool: TaskTool, arguments: Mapping[str, Any]) -> Question:
    """:raises Refusal: the arguments don't fit the tool; the node checks the values of options."""
    known, required = tool.input["properties"], tool.input["required"]
    options = dict(arguments)
    for name in required:
        if not isinstance(options.get(name), str):
            raise Refusal(400, f"The argument {name!r} must be a text.")
    if unknown := [name for name in options if name not in known]:
        raise Refusal(400, f"There is no argument {unknown[0][:100]!r}; there are: {', '.join(known)}.")
    return Question(tool.name, options.pop("input"), options)
