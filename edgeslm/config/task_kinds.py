"""Task kinds, and the request options that apply to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["classify", "extract", "answer", "summarize", "generate", "embed", "search"]
LEARNABLE: tuple[Kind, ...] = ("classify", "extract")
"""The kinds that can be trained."""
Option = Literal[
    "max_tokens",
    "temperature",
    "top_p",
    "repetition_penalty",
    "stop",
    "seed",
    "stream",
    "priority",
    "deadline_ms",
    "labels",
    "schema",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "knowledge",
    "context",
    "sources",
    "since",
    "until",
]
"""An option of a request."""

_COMMON: tuple[Option, ...] = ("priority", "deadline_ms")
_SAMPLING: tuple[Option, ...] = ("max_tokens", "temperature", "top_p", "repetition_penalty", "seed")
NARROWING: tuple[Option, ...] = ("sources", "since", "until")
"""Options that restrict the documents to search; safe for any sender, since they can't add documents."""
_TEXT: tuple[Option, ...] = (*_SAMPLING, "stop", "stream")

ALLOWED: Mapping[Kind, tuple[Option, ...]] = {
    "classify": _COMMON,
    "extract": (*_COMMON, *_SAMPLING),
    "answer": (*_COMMON, *_TEXT, "context", *NARROWING),
    "summarize": (*_COMMON, *_TEXT),
    "generate": (*_COMMON, *_TEXT, "schema", "tools", "tool_choice", "parallel_tool_calls"),
    "embed": _COMMON,
    "search": (*_COMMON, *NARROWING),
}
"""The options that senders may set when a task has no ``allow``."""

POSSIBLE: Mapping[Kind, tuple[Option, ...]] = {
    **ALLOWED,
    "classify": (*ALLOWED["classify"], "labels"),
    "extract": (*ALLOWED["extract"], "schema"),
    "answer": (*ALLOWED["answer"], "knowledge"),
    "search": (*ALLOWED["search"], "knowledge"),
}
"""The options that apply to a kind; a task's ``allow`` may list only these."""
