"""Schemas of the OpenAPI document: bodies of requests and answers in Ollama's dialect, as JSON Schemas."""

from __future__ import annotations

from edgeslm.api.openapi_schemas import (
    FLAG,
    MODEL,
    NUMBER,
    OBJECT,
    SHARE,
    STOP,
    TEMPERATURE,
    TEXT,
    TEXTS,
    TIME,
    TOOL,
    WHOLE,
    Schema,
    fields,
    list_of,
    one_of,
    ref,
    said,
)

_OPTIONS = fields(
    {},
    {
        "num_predict": {"type": "integer", "minimum": -2},
        "temperature": TEMPERATURE,
        "top_p": SHARE,
        "repeat_penalty": {"type": "number", "minimum": 0.1, "maximum": 5},
        "seed": WHOLE,
        "stop": STOP,
    },
)
_FORMAT = {"anyOf": [one_of("", "json"), OBJECT]}
_END = {
    "done_reason": one_of("stop", "length", "load"),
    "total_duration": said(WHOLE, "Nanoseconds, like the other durations"),
    **dict.fromkeys(("load_duration", "prompt_eval_count", "prompt_eval_duration"), WHOLE),
    **dict.fromkeys(("eval_count", "eval_duration"), WHOLE),
    "edgeslm": fields({"status": TEXT, "result": OBJECT}),
}
_DETAILS = fields(
    {
        **dict.fromkeys(("parent_model", "format", "family", "parameter_size"), TEXT),
        "quantization_level": TEXT,
        "families": list_of(TEXT),
    }
)

OLLAMA_SCHEMAS: dict[str, Schema] = {
    "OllamaError": fields({"error": TEXT}),
    "OllamaVersion": fields({"version": TEXT}),
    "OllamaTags": fields(
        {
            "models": list_of(
                fields(
                    {
                        "name": TEXT,
                        "model": TEXT,
                        "modified_at": TIME,
                        "size": WHOLE,
                        "digest": TEXT,
                        "details": _DETAILS,
                    }
                )
            )
        }
    ),
    "OllamaShowRequest": fields({"model": MODEL}),
    "OllamaShow": fields(
        {
            "modelfile": TEXT,
            "parameters": TEXT,
            "template": TEXT,
            "details": _DETAILS,
            "model_info": OBJECT,
            "modified_at": TIME,
            "capabilities": list_of(one_of("completion", "embedding", "tools")),
        }
    ),
    "OllamaChatRequest": fields(
        {"model": MODEL},
        {
            "messages": list_of(ref("ChatMessage")),
            "stream": said(FLAG, "Default: true"),
            "format": _FORMAT,
            "tools": list_of(TOOL),
            "options": _OPTIONS,
        },
    ),
    "OllamaChat": fields(
        {
            "model": TEXT,
            "created_at": TIME,
            "message": fields(
                {"role": one_of("assistant"), "content": TEXT},
                {"tool_calls": list_of(fields({"function": fields({"name": TEXT, "arguments": OBJECT})}))},
            ),
            "done": FLAG,
        },
        _END,
    ),
    "OllamaGenerateRequest": fields(
        {"model": MODEL},
        {
            "prompt": TEXT,
            "system": TEXT,
            "stream": said(FLAG, "Default: true"),
            "format": _FORMAT,
            "options": _OPTIONS,
        },
    ),
    "OllamaGenerated": fields({"model": TEXT, "created_at": TIME, "response": TEXT, "done": FLAG}, _END),
    "OllamaEmbedRequest": fields({"model": MODEL, "input": TEXTS}),
    "OllamaEmbeddings": fields(
        {
            "model": TEXT,
            "embeddings": list_of(list_of(NUMBER)),
            **dict.fromkeys(("total_duration", "load_duration", "prompt_eval_count"), WHOLE),
        }
    ),
    "OllamaEmbeddingRequest": fields({"model": MODEL, "prompt": TEXT}),
    "OllamaEmbedding": fields({"embedding": list_of(NUMBER)}),
}
"""Name -> schema."""
