"""OpenAPI document of the HTTP API: its paths, and who may use them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeslm.api.openapi_ollama import OLLAMA_SCHEMAS
from edgeslm.api.openapi_schemas import SCHEMAS, ref

SSE = "text/event-stream"
LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Operation:
    """What one path does. ``request`` and ``answer`` name schemas; ``pieces`` is the schema of a stream's
    events or lines, and ``stream`` its media type. Without ``answer``, the answer is a text."""

    method: str
    path: str
    id: str
    summary: str
    request: str | None = None
    answer: str | None = None
    stream: str | None = None
    pieces: str | None = None

    @property
    def is_ollama(self) -> bool:
        return self.path.startswith("/api/")


OPERATIONS = (
    Operation("get", "/", "hello", "Whether the API runs"),
    Operation("get", "/openapi.json", "openapi", "This document", None, "OpenApi"),
    Operation(
        "get", "/v1/models", "listModels", "Tasks and models that the token may use", None, "ModelList"
    ),
    Operation("get", "/v1/models/{name}", "getModel", "One task or model", None, "Model"),
    Operation(
        "post",
        "/v1/chat/completions",
        "createChatCompletion",
        "Asks a task or a decoder",
        "ChatRequest",
        "ChatCompletion",
        SSE,
        "ChatCompletionChunk",
    ),
    Operation(
        "post",
        "/v1/responses",
        "createResponse",
        "Asks a task or a decoder, in the newer dialect",
        "ResponseRequest",
        "Response",
        SSE,
        "ResponseEvent",
    ),
    Operation(
        "post", "/v1/embeddings", "createEmbeddings", "Embeds texts", "EmbeddingRequest", "EmbeddingList"
    ),
    *(
        Operation("post", path, name, "Ranks documents by a query", "RerankRequest", "Ranking")
        for path, name in (
            ("/v1/rerank", "rerank"),
            ("/rerank", "rerankShort"),
            ("/v1/reranking", "reranking"),
            ("/reranking", "rerankingShort"),
        )
    ),
    Operation("get", "/api/version", "ollamaVersion", "Version of edgeslm", None, "OllamaVersion"),
    Operation("get", "/api/tags", "ollamaTags", "Tasks and models", None, "OllamaTags"),
    Operation("get", "/api/ps", "ollamaRunning", "Tasks and models, too", None, "OllamaTags"),
    Operation(
        "post", "/api/show", "ollamaShow", "Details of a task or model", "OllamaShowRequest", "OllamaShow"
    ),
    Operation(
        "post",
        "/api/chat",
        "ollamaChat",
        "Asks a task or a decoder; streams by default",
        "OllamaChatRequest",
        "OllamaChat",
        LINES,
        "OllamaChat",
    ),
    Operation(
        "post",
        "/api/generate",
        "ollamaGenerate",
        "Asks with a prompt; streams by default",
        "OllamaGenerateRequest",
        "OllamaGenerated",
        LINES,
        "OllamaGenerated",
    ),
    Operation("post", "/api/embed", "ollamaEmbed", "Embeds texts", "OllamaEmbedRequest", "OllamaEmbeddings"),
    Operation(
        "post",
        "/api/embeddings",
        "ollamaEmbedding",
        "Embeds one text",
        "OllamaEmbeddingRequest",
        "OllamaEmbedding",
    ),
    Operation(
        "post",
        "/mcp",
        "mcp",
        "A message of an MCP client; only with `api.mcp`",
        "McpMessage",
        "McpMessage",
        SSE,
        "McpMessage",
    ),
)

_KEY: Mapping[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeat with the same key, body and token gets the stored result. Without it, a client "
    "that closes its connection cancels the request.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
}
_NAME: Mapping[str, Any] = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


def document() -> dict[str, Any]:
    """The OpenAPI document, version 3.1."""
    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgeslm",
            "version": "1.0.0",
            "description": "The HTTP API of a node, in the dialects of OpenAI and Ollama. Fields of requests "
            "that aren't listed have no effect.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8481"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Error": _error("Error", "An error in OpenAI's form"),
                "OllamaError": _error("OllamaError", "An error in Ollama's form"),
                "Busy": _error("Error", "Repeat the request later", is_busy=True),
                "OllamaBusy": _error("OllamaError", "Repeat the request later", is_busy=True),
            },
            "schemas": {
                **SCHEMAS,
                **OLLAMA_SCHEMAS,
                "OpenApi": {"type": "object", "description": "An OpenAPI document."},
            },
        },
    }


def _error(schema: str, description: str, *, is_busy: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"description": description, "content": _json(schema)}
    if is_busy:
        seconds = {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 1}}
        found["headers"] = {"Retry-After": seconds}
    return found


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": ref(schema)}}


def _operation(one: Operation) -> dict[str, Any]:
    prefix = "Ollama" if one.is_ollama else ""
    content = {"text/plain": {"schema": {"type": "string"}}} if one.answer is None else _json(one.answer)
    if one.stream is not None and one.pieces is not None:
        content[one.stream] = {"schema": ref(one.pieces)}
    answers: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    if one.path == "/mcp":
        answers["202"] = {"description": "A notification was accepted"}
    if one.path != "/":
        answers["429"] = {"$ref": f"#/components/responses/{prefix}Busy"}
    answers["4XX"] = answers["5XX"] = {"$ref": f"#/components/responses/{prefix}Error"}
    found: dict[str, Any] = {"operationId": one.id, "summary": one.summary}
    parameters = [_NAME] if "{name}" in one.path else []
    if one.request is not None and one.path not in ("/api/show", "/mcp"):
        parameters.append(_KEY)
    if parameters:
        found["parameters"] = parameters
    if one.request is not None:
        found["requestBody"] = {"required": True, "content": _json(one.request)}
    if one.path == "/":
        found["security"] = []
    return {**found, "responses": answers}
