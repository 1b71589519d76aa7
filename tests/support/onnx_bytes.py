"""ONNX models as bytes, written without a library: the few protobuf messages that a check reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FLOAT, FLOAT16, INT8 = 1, 10, 3


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, body: bytes | str) -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def tensor(
    location: str | None = None, offset: int | str = 0, length: int | str = 0, raw: bytes = b""
) -> bytes:
    """A TensorProto with external data or ``raw`` data."""
    body = number(2, FLOAT) + message(8, "weight") + message(9, raw)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        body += message(13, message(1, key) + message(2, value)) if location is not None and value else b""
    return body


def attribute(name: str, value: int | None = None, *, graph: bytes | None = None) -> bytes:
    body = message(1, name)
    body += number(3, value) if value is not None else b""
    return body + (message(6, graph) if graph is not None else b"")


def node(operator: str, *attributes: bytes) -> bytes:
    return message(4, operator) + b"".join(message(5, one) for one in attributes)


def graph(
    inputs: Mapping[str, int], *, nodes: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = ()
) -> bytes:
    """A GraphProto; ``inputs`` are the data types by name."""
    body = b"".join(message(1, one) for one in nodes) + b"".join(message(5, one) for one in tensors)
    for name, kind in inputs.items():
        body += message(11, message(1, name) + message(2, message(1, number(1, kind))))
    return body


def model(of: bytes) -> bytes:
    return number(1, 10) + message(2, "tests") + message(7, of)


def cache_inputs(layers: int, kind: int = FLOAT) -> dict[str, int]:
    return {f"past_key_values.{layer}.{part}": kind for layer in range(layers) for part in ("key", "value")}


def settings(**changes: Any) -> dict[str, Any]:
    """``genai_config.json`` of a small decoder; ``changes`` are keys of its section ``model``."""
    decoder = {
        "filename": "model.onnx",
        "head_size": 16,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "inputs": {
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
    }
    section = {"type": "phi3", "context_length": 512, "vocab_size": 64, "eos_token_id": 2, "decoder": decoder}
    return {"model": {**section, **changes}, "search": {"max_length": 512}}


def write_ready(folder: Path, **changes: Any) -> Path:
    """A folder that passes the check, with weights of 64 bytes in a file of their own."""
    folder.mkdir(parents=True)
    product = node("MatMulNBits", attribute("bits", 4), attribute("block_size", 32))
    whole = graph(cache_inputs(2), nodes=(product, product), tensors=(tensor("model.onnx.data", 32, 32),))
    (folder / "model.onnx").write_bytes(model(whole))
    (folder / "model.onnx.data").write_bytes(bytes(64))
    (folder / "genai_config.json").write_text(json.dumps(settings(**changes)))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    return folder
