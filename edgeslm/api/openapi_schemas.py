"""Schemas of the OpenAPI document: bodies of requests and answers in OpenAI's dialect, as JSON Schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeslm.api.dialect import MOST_TEXTS
from edgeslm.api.rerank import DOCUMENT_TOKENS
from edgeslm.protocol.request_options import OPTIONS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
ANY: Schema = {}
OBJECT: Schema = {"type": "object"}
TIME: Schema = {"type": "string", "format": "date-time"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def fields(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def list_of(items: Schema, **more: int) -> Schema:
    return {"type": "array", "items": items, **more}


def or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    return {"const": values[0]} if len(values) == 1 else {"enum": list(values)}


def said(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


MODEL = said(TEXT, "A task of the node, or `model:NAME`")
_STREAM = said(FLAG, "Sends the answer in pieces")
STOP: Schema = {"anyOf": [TEXT, list_of(TEXT)]}
TEMPERATURE: Schema = {"type": "number", "minimum": 0, "maximum": 2}
SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
TEXTS: Schema = {"anyOf": [TEXT, list_of(TEXT, minItems=1, maxItems=MOST_TEXTS)]}
TOOL = fields(
    {
        "type": one_of("function"),
        "function": fields({"name": TEXT}, {"description": TEXT, "parameters": OBJECT}),
    }
)
_CITATION = {"url": TEXT, "title": TEXT, "start_index": WHOLE, "end_index": WHOLE}
_PROMPT_USAGE = fields({"prompt_tokens": WHOLE, "total_tokens": WHOLE})

SHARED: dict[str, Schema] = {
    "Error": fields(
        {
            "error": fields(
                {"message": TEXT, "type": TEXT, "param": {"type": "null"}, "code": or_null(TEXT)},
            )
        }
    ),
    "Options": {
        "type": "object",
        "description": "Options of edgeslm. Each task's `allow` says which of them it takes.",
        "properties": {
            name: {**option.schema, "description": option.meaning} for name, option in OPTIONS.items()
        },
        "additionalProperties": False,
    },
    "Details": {
        **fields(
            {"id": TEXT, "status": one_of("ok", "abstained")},
            {
                "result": OBJECT,
                "model": TEXT,
                "timings_ms": {"type": "object", "additionalProperties": NUMBER},
                "truncated": fields({"kept": WHOLE, "of": WHOLE}),
            },
        ),
        "description": "The result as over MQTT, without the texts that the answer has already.",
    },
    "ModelDetails": {
        **fields(
            {"kind": TEXT},
            {
                "model": TEXT,
                "digest": TEXT,
                "bytes": WHOLE,
                "family": TEXT,
                "context_length": or_null(WHOLE),
                "recipe": or_null(TEXT),
            },
        ),
        "description": "The kind of the task, and the model of its first stage.",
    },
}

_CHAT: dict[str, Schema] = {
    "Model": fields(
        {
            "id": TEXT,
            "object": one_of("model"),
            "created": WHOLE,
            "owned_by": TEXT,
            "edgeslm": ref("ModelDetails"),
        }
    ),
    "ModelList": fields({"object": one_of("list"), "data": list_of(ref("Model"))}),
    "ChatMessage": fields(
        {"role": one_of("system", "developer", "user", "assistant", "tool", "function")},
        {
            "content": {
                "anyOf": [TEXT, list_of(fields({"type": TEXT}, {"text": TEXT})), {"type": "null"}],
                "description": "Text; images and sounds are refused",
            },
            "tool_calls": list_of(OBJECT),
            "tool_call_id": TEXT,
        },
    ),
    "ChatRequest": fields(
        {"model": MODEL, "messages": list_of(ref("ChatMessage"), minItems=1)},
        {
            "stream": _STREAM,
            "stream_options": fields({}, {"include_usage": FLAG}),
            "max_tokens": {"type": "integer", "minimum": 1},
            "max_completion_tokens": {"type": "integer", "minimum": 1},
            "temperature": TEMPERATURE,
            "top_p": SHARE,
            "stop": STOP,
            "seed": WHOLE,
            "response_format": fields(
                {"type": one_of("text", "json_object", "json_schema")},
                {"json_schema": fields({"schema": OBJECT}, {"name": TEXT})},
            ),
            "tools": list_of(TOOL),
            "tool_choice": {"anyOf": [one_of("auto", "none", "required"), OBJECT]},
            "logprobs": said(FLAG, "Probabilities of the labels of a classify task"),
            "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
            "options": ref("Options"),
        },
    ),
    "TokenLogprob": fields({"token": TEXT, "logprob": NUMBER, "bytes": list_of(WHOLE)}),
    "Logprobs": fields(
        {
            "content": list_of(
                fields(
                    {
                        "token": TEXT,
                        "logprob": NUMBER,
                        "bytes": list_of(WHOLE),
                        "top_logprobs": list_of(ref("TokenLogprob")),
                    }
                )
            ),
            "refusal": {"type": "null"},
        }
    ),
    "ToolCall": fields(
        {
            "id": TEXT,
            "type": one_of("function"),
            "function": fields({"name": TEXT, "arguments": said(TEXT, "JSON")}),
        },
        {"index": WHOLE},
    ),
    "Annotation": fields({"type": one_of("url_citation"), "url_citation": fields(_CITATION)}),
    "Usage": fields({"prompt_tokens": WHOLE, "completion_tokens": WHOLE, "total_tokens": WHOLE}),
    "ChatCompletion": fields(
        {
            "id": TEXT,
            "object": one_of("chat.completion"),
            "created": WHOLE,
            "model": TEXT,
            "choices": list_of(
                fields(
                    {
                        "index": WHOLE,
                        "message": fields(
                            {
                                "role": one_of("assistant"),
                                "content": or_null(TEXT),
                                "refusal": said(or_null(TEXT), "Why a task abstained"),
                            },
                            {
                                "tool_calls": list_of(ref("ToolCall")),
                                "annotations": list_of(ref("Annotation")),
                            },
                        ),
                        "logprobs": or_null(ref("Logprobs")),
                        "finish_reason": one_of("stop", "length", "tool_calls"),
                    }
                )
            ),
            "usage": ref("Usage"),
            "edgeslm": ref("Details"),
        }
    ),
    "ChatCompletionChunk": fields(
        {
            "id": TEXT,
            "object": one_of("chat.completion.chunk"),
            "created": WHOLE,
            "model": TEXT,
            "choices": list_of(
                fields(
                    {
                        "index": WHOLE,
                        "delta": fields(
                            {},
                            {
                                "role": one_of("assistant"),
                                "content": TEXT,
                                "refusal": TEXT,
                                "tool_calls": list_of(ref("ToolCall")),
                                "annotations": list_of(ref("Annotation")),
                            },
                        ),
                        "logprobs": or_null(ref("Logprobs")),
                        "finish_reason": or_null(one_of("stop", "length", "tool_calls")),
                    }
                )
            ),
        },
        {"usage": ref("Usage"), "edgeslm": ref("Details")},
    ),
}

_RESPONSES: dict[str, Schema] = {
    "ResponseRequest": fields(
        {"model": MODEL, "input": {"anyOf": [TEXT, list_of(OBJECT, minItems=1)]}},
        {
            "instructions": TEXT,
            "stream": _STREAM,
            "max_output_tokens": {"type": "integer", "minimum": 1},
            "temperature": TEMPERATURE,
            "top_p": SHARE,
            "text": fields(
                {}, {"format": fields({"type": TEXT}, {"name": TEXT, "schema": OBJECT, "strict": FLAG})}
            ),
            "tools": list_of(
                fields(
                    {"type": one_of("function"), "name": TEXT}, {"description": TEXT, "parameters": OBJECT}
                )
            ),
            "tool_choice": {"anyOf": [one_of("auto", "none", "required"), OBJECT]},
            "options": ref("Options"),
        },
    ),
    "ResponseText": fields(
        {
            "type": one_of("output_text"),
            "text": TEXT,
            "annotations": list_of(fields({"type": one_of("url_citation"), **_CITATION})),
            "logprobs": list_of(ANY, maxItems=0),
        }
    ),
    "ResponseMessage": fields(
        {
            "id": TEXT,
            "type": one_of("message"),
            "role": one_of("assistant"),
            "status": one_of("in_progress", "completed"),
            "content": list_of(
                {"anyOf": [ref("ResponseText"), fields({"type": one_of("refusal"), "refusal": TEXT})]}
            ),
        }
    ),
    "ResponseCall": fields(
        {
            "id": TEXT,
            "type": one_of("function_call"),
            "call_id": TEXT,
            "name": TEXT,
            "arguments": said(TEXT, "JSON"),
            "status": one_of("in_progress", "completed"),
        }
    ),
    "Response": fields(
        {
            "id": TEXT,
            "object": one_of("response"),
            "created_at": WHOLE,
            "status": one_of("in_progress", "completed", "incomplete"),
            "error": {"type": "null"},
            "incomplete_details": or_null(fields({"reason": TEXT})),
            "instructions": {"type": "null"},
            "metadata": OBJECT,
            "model": TEXT,
            "output": list_of({"anyOf": [ref("ResponseMessage"), ref("ResponseCall")]}),
            "parallel_tool_calls": FLAG,
            "temperature": {"type": "null"},
            "tool_choice": one_of("auto"),
            "tools": list_of(ANY, maxItems=0),
            "top_p": {"type": "null"},
            "usage": or_null(
                fields(
                    {
                        "input_tokens": WHOLE,
                        "input_tokens_details": fields({"cached_tokens": WHOLE}),
                        "output_tokens": WHOLE,
                        "output_tokens_details": fields({"reasoning_tokens": WHOLE}),
                        "total_tokens": WHOLE,
                    }
                )
            ),
        },
        {"edgeslm": ref("Details")},
    ),
    "ResponseEvent": {
        **fields({"type": TEXT, "sequence_number": WHOLE}, {"response": ref("Response")}),
        "description": "An event, whose `type` decides its other fields, as in OpenAI's reference.",
        "additionalProperties": True,
    },
}

_LISTS: dict[str, Schema] = {
    "EmbeddingRequest": fields(
        {"model": MODEL, "input": TEXTS}, {"encoding_format": one_of("float", "base64")}
    ),
    "EmbeddingList": fields(
        {
            "object": one_of("list"),
            "data": list_of(
                fields(
                    {
                        "object": one_of("embedding"),
                        "index": WHOLE,
                        "embedding": {
                            "anyOf": [list_of(NUMBER), said(TEXT, "base64 of float32, little-endian")]
                        },
                    }
                )
            ),
            "model": TEXT,
            "usage": _PROMPT_USAGE,
        }
    ),
    "RerankRequest": fields(
        {
            "model": said(TEXT, "`model:NAME` of a reader or decoder"),
            "query": TEXT,
            "documents": list_of({"anyOf": [TEXT, fields({"text": TEXT})]}, minItems=1, maxItems=256),
        },
        {
            "top_n": {"type": "integer", "minimum": 1},
            "return_documents": FLAG,
            "max_tokens_per_doc": {"type": "integer", "minimum": 1, "default": DOCUMENT_TOKENS},
            "truncate": said({**FLAG, "default": True}, "Cuts longer documents; false refuses them"),
            "options": ref("Options"),
        },
    ),
    "Ranking": fields(
        {
            "model": TEXT,
            "object": one_of("list"),
            "usage": _PROMPT_USAGE,
            "results": list_of(
                fields({"index": WHOLE, "relevance_score": SHARE}, {"document": fields({"text": TEXT})})
            ),
        },
        {"meta": said(fields({"warnings": list_of(TEXT)}), "Tells which documents were cut")},
    ),
}

SCHEMAS: Mapping[str, Schema] = {
    **SHARED,
    **_CHAT,
    **_RESPONSES,
    **_LISTS,
    "McpMessage": {
        **fields({"jsonrpc": one_of("2.0")}, {"id": {"type": ["string", "integer", "null"]}, "method": TEXT}),
        "description": "A message of the Model Context Protocol (JSON-RPC).",
        "additionalProperties": True,
    },
}
"""Name -> schema."""
