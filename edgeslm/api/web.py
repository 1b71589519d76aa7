"""The API's web application: who may come in, routes of all dialects, and errors in the dialect of the
path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeslm import __version__
from edgeslm.api import ollama, openai, rerank, responses
from edgeslm.api.dialect import Told, result_of, told_or_refused
from edgeslm.api.node import CODE, Answer, Client, NodeLink, Question
from edgeslm.api.wire import BODY_BYTES
from edgeslm.errors import InvalidRequest
from edgeslm.protocol.codec import MAX_ID_CHARACTERS
from edgeslm.protocol.strict_json import decode_text, parse_json
from edgeslm.web.connections import admit
from edgeslm.web.hosts import is_own_host
from edgeslm.web.server import HEADER_BYTES, Refusal, header_bytes, read_body

log = logging.getLogger("edgeslm.api")

MOST_CONNECTIONS = 256
"""Maximum number of connections of clients, idle ones included; above it, new ones get the status 503."""
TAKE_S = 30.0
"""Timeout for a client to accept one piece of a stream."""
PUBLIC = ("/",)
"""Paths that need no token."""
RERANK = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")
"""Paths of reranking, as llama.cpp's server has them."""
MODEL_CHANGES = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/")
"""Paths of Ollama that change models."""

Writer = openai.ChatStream | responses.ResponseStream | ollama.TextStream


def make_app(node: NodeLink, settings: Mapping[str, Any], mcp: ASGIApp | None = None) -> ASGIApp:
    """The ASGI application; ``settings`` are those of the API process. ``mcp`` answers MCP clients."""
    api = Api(node, settings["body_bytes"])
    routes = [
        Route("/", api.hello, methods=["GET"]),
        Route("/openapi.json", api.openapi, methods=["GET"]),
        Route("/v1/models", api.openai_models, methods=["GET"]),
        Route("/v1/models/{name:path}", api.openai_model, methods=["GET"]),
        Route("/v1/chat/completions", api.openai_chat, methods=["POST"]),
        Route("/v1/responses", api.openai_response, methods=["POST"]),
        Route("/v1/embeddings", api.openai_embeddings, methods=["POST"]),
        *(Route(path, api.rerank, methods=["POST"]) for path in RERANK),
        Route("/api/version", api.ollama_version, methods=["GET"]),
        Route("/api/tags", api.ollama_tags, methods=["GET"]),
        Route("/api/ps", api.ollama_tags, methods=["GET"]),
        Route("/api/show", api.ollama_show, methods=["POST"]),
        Route("/api/chat", api.ollama_chat, methods=["POST"]),
        Route("/api/generate", api.ollama_generate, methods=["POST"]),
        Route("/api/embed", api.ollama_embed, methods=["POST"]),
        Route("/api/embeddings", api.ollama_embed, methods=["POST"]),
    ]
    if mcp is not None:
        routes.append(Route("/mcp", mcp, methods=["POST"]))
    handlers: dict[Any, Any] = {
        Refusal: _refused,
        InvalidRequest: _invalid,
        404: _no_path,
        405: _no_method,
        500: _failed,
    }
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, node, settings["hosts"], secure=settings["secure"])


class Guard:
    """Middleware: refuses requests with a wrong host, from a page of another site, or without a token."""

    def __init__(self, app: ASGIApp, node: NodeLink, hosts: list[str], *, secure: bool) -> None:
        self._app = app
        self._node = node
        self._hosts = frozenset(hosts)
        self._scheme = "https" if secure else "http"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = self._refuse(scope)
        if answer is not None:
            await answer(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # answered by _failed; uvicorn would log all of it
            log.error("the API failed on a request: %s", type(error).__name__)
            log.debug("the API failed on a request", exc_info=error)

    def _refuse(self, scope: Scope) -> Response | None:
        request = Request(scope)
        path, hosts = scope["path"], request.headers.getlist("host")
        if header_bytes(scope) > HEADER_BYTES:
            return error_response(path, 431, f"The header is longer than {HEADER_BYTES} bytes.")
        if len(hosts) != 1 or not is_own_host(hosts[0], self._hosts):
            return error_response(path, 421, "This name isn't one of the API's; name it in api.hosts.")
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")
        if origin not in (None, f"{self._scheme}://{hosts[0]}") or site not in ("none", "same-origin"):
            return error_response(path, 403, "Pages of other sites can't use this API.")
        client = self._node.client(request.headers.get("authorization"))
        scope["state"]["client"] = client
        if client is not None and not admit(scope, MOST_CONNECTIONS):
            headers = {"Retry-After": "1", "Connection": "close"}
            return error_response(path, 503, "The API has too many connections; try again.", headers)
        if client is None and path not in PUBLIC:
            sentence = "The header Authorization: Bearer TOKEN is missing or has an unknown token."
            return error_response(path, 401, sentence, {"WWW-Authenticate": "Bearer"})
        return None


class Api:
    """Handlers of all paths."""

    def __init__(self, node: NodeLink, body_bytes: int) -> None:
        self._node = node
        self._body_bytes = body_bytes

    async def hello(self, request: Request) -> Response:
        return PlainTextResponse("edgeslm is running")

    async def openapi(self, request: Request) -> Response:
        from edgeslm.api.openapi import document  # for the few who ask for it

        return JSONResponse(document())

    # OpenAI

    async def openai_models(self, request: Request) -> Response:
        return JSONResponse(openai.model_list(self._node.offered(_client(request))))

    async def openai_model(self, request: Request) -> Response:
        return JSONResponse(openai.model(self._node.find(_client(request), request.path_params["name"])))

    async def openai_chat(self, request: Request) -> Response:
        body = await self._object(request)
        asked = openai.read_chat(body, self._node.find(_client(request), body.get("model")))
        answer = self._begin(request, asked.question)
        if asked.stream:
            return await Stream.begin(answer, openai.ChatStream(asked), "text/event-stream")
        return JSONResponse(openai.chat_completion(asked, await result_of(answer)))

    async def openai_response(self, request: Request) -> Response:
        body = await self._object(request)
        asked = responses.read(body, self._node.find(_client(request), body.get("model")))
        answer = self._begin(request, asked.question)
        if asked.stream:
            return await Stream.begin(answer, responses.ResponseStream(asked), "text/event-stream")
        return JSONResponse(responses.response(asked, await result_of(answer)))

    async def openai_embeddings(self, request: Request) -> Response:
        body = await self._object(request)
        asked = openai.read_embeddings(body, self._node.find(_client(request), body.get("model")))
        return JSONResponse(openai.embeddings(asked, await self._all(request, asked.questions)))

    async def rerank(self, request: Request) -> Response:
        body = await self._object(request)
        asked = rerank.read(body, self._node.find(_client(request), body.get("model")))
        return JSONResponse(rerank.ranking(asked, await result_of(self._begin(request, asked.question))))

    # Ollama

    async def ollama_version(self, request: Request) -> Response:
        return JSONResponse({"version": __version__})

    async def ollama_tags(self, request: Request) -> Response:
        return JSONResponse(ollama.tags(self._node.offered(_client(request))))

    async def ollama_show(self, request: Request) -> Response:
        body = await self._object(request)
        return JSONResponse(
            ollama.show(self._node.find(_client(request), body.get("model", body.get("name"))))
        )

    async def ollama_chat(self, request: Request) -> Response:
        body = await self._object(request)
        offered = self._node.find(_client(request), body.get("model"))
        if ollama.is_load(body, "messages"):
            return JSONResponse(ollama.loaded(offered, is_chat=True))
        return await self._ollama_text(request, ollama.read_chat(body, offered))

    async def ollama_generate(self, request: Request) -> Response:
        body = await self._object(request)
        offered = self._node.find(_client(request), body.get("model"))
        if ollama.is_load(body, "prompt"):
            return JSONResponse(ollama.loaded(offered, is_chat=False))
        return await self._ollama_text(request, ollama.read_generate(body, offered))

    async def _ollama_text(self, request: Request, asked: ollama.Asked) -> Response:
        answer = self._begin(request, asked.question)
        if asked.stream:
            return await Stream.begin(answer, ollama.TextStream(asked), "application/x-ndjson")
        return JSONResponse(ollama.text(asked, await result_of(answer)))

    async def ollama_embed(self, request: Request) -> Response:
        body = await self._object(request)
        is_old = request.url.path == "/api/embeddings"
        asked = ollama.read_embed(body, self._node.find(_client(request), body.get("model")), is_old=is_old)
        return JSONResponse(
            ollama.embeddings(asked, await self._all(request, asked.questions), is_old=is_old)
        )

    # All

    async def _object(self, request: Request) -> dict[str, Any]:
        """The JSON object of the body, whatever its Content-Type says, as the others' servers do."""
        body = parse_json(decode_text(await read_api_body(request, self._body_bytes)))
        if not isinstance(body, dict):
            raise Refusal(400, "The body must be a JSON object.")
        return body

    def _begin(self, request: Request, question: Question) -> Answer:
        key = request.headers.get("idempotency-key")
        if key is not None and not (1 <= len(key) <= MAX_ID_CHARACTERS and key.isprintable()):
            raise Refusal(400, f"Idempotency-Key must have 1 to {MAX_ID_CHARACTERS} printable characters.")
        return _until_gone(self._node.ask(_client(request), question, key), request)

    async def _all(self, request: Request, questions: list[Question]) -> list[Told]:
        """The results of several questions, in their order. One fails, all fail."""
        found = []
        for question in questions:
            found.append(await result_of(self._begin(request, question)))
        return found


async def read_api_body(request: Request, most: int) -> bytes:
    """The body of a request. :raises Refusal: it is longer than ``most`` bytes, or arrives too slowly."""
    return await read_body(request, most, "limits.packet_bytes" if most < BODY_BYTES else None)


def _client(request: Request) -> Client:
    client: Client = request.state.client
    return client


async def _until_gone(answer: Answer, request: Request) -> Answer:
    """The answer, closed as soon as the client closes the connection."""
    gone = asyncio.create_task(_gone(request))
    try:
        while True:
            step = asyncio.ensure_future(anext(answer))
            await asyncio.wait([step, gone], return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                await asyncio.wait([step])
                raise Refusal(499, "The client closed the connection.")
            try:
                yield step.result()
            except StopAsyncIteration:
                return
    finally:
        gone.cancel()
        await answer.aclose()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Stream(Response):
    """A stream of pieces for one client; each piece waits until the client has accepted the previous one."""

    def __init__(
        self,
        first: str | dict[str, Any],
        answer: Answer,
        writer: Writer,
        media_type: str,
    ) -> None:
        super().__init__()
        self._first = first
        self._answer = answer
        self._writer = writer
        self._media_type = media_type

    @classmethod
    async def begin(
        cls,
        answer: Answer,
        writer: Writer,
        media_type: str,
    ) -> Stream:
        """Waits for the first piece, so that an error before it has its HTTP status.

        :raises Refusal: the answer is an error.
        """
        try:
            first = await anext(answer)
            if not isinstance(first, str):
                told_or_refused(first)
        except BaseException:
            await answer.aclose()
            raise
        return cls(first, answer, writer, media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self._media_type.encode()), (b"cache-control", b"no-store")]
        headers.append((b"x-accel-buffering", b"no"))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send(send, self._writer.begin() + self._written(self._first))
            async for told in self._answer:
                await self._send(send, self._written(told))
            await self._send(send, b"", more=False)
        except (Refusal, TimeoutError):  # the client is gone or too slow, or the node is silent
            pass
        finally:
            await self._answer.aclose()

    def _written(self, told: str | dict[str, Any]) -> bytes:
        if isinstance(told, str):
            return self._writer.piece(told)
        try:
            return self._writer.end(told_or_refused(told))
        except Refusal as refusal:
            return self._writer.error(refusal)

    @staticmethod
    async def _send(send: Send, data: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        async with asyncio.timeout(TAKE_S):
            await send(message)


def error_response(
    path: str, status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error in the dialect of the path."""
    body = ollama.error(sentence) if path.startswith("/api/") else openai.error(status, sentence, headers)
    sent = {name: value for name, value in (headers or {}).items() if name != CODE}
    return JSONResponse(body, status, headers=sent)


async def _refused(request: Request, error: Exception) -> Response:
    refusal = error if isinstance(error, Refusal) else Refusal(500, "The API failed on this.")
    return error_response(request.url.path, refusal.status, str(refusal), refusal.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    return error_response(request.url.path, 400, str(error))


async def _no_path(request: Request, error: Exception) -> Response:
    path = request.url.path
    sentence = "There is no such path; GET /openapi.json lists all."
    if path == "/mcp":
        sentence = "MCP is off: set api.mcp in the node's configuration."
    elif path.startswith(MODEL_CHANGES):
        sentence = "Models can't be changed here; the node's configuration names them."
    return error_response(path, 404, sentence)


async def _no_method(request: Request, error: Exception) -> Response:
    headers = getattr(error, "headers", None)
    return error_response(request.url.path, 405, f"{request.method} isn't for this path.", headers)


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(request.url.path, 500, "The API failed on this; the node's log says more.")
