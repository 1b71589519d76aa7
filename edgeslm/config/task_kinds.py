"""Task kinds, and which options of a request mean something to each: one table for all who ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["classify", "extract", "answer", "summarize", "generate", "embed", "search"]
LEARNABLE: tuple[Kind, ...] = ("classify", "extract")
"""The kinds of tasks that can be taught."""
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
    "knowledge",
    "context",
    "sources",
    "since",
    "until",
]
"""What a request may carry in ``options``, if its task allows it."""

_COMMON: tuple[Option, ...] = ("priority", "deadline_ms")
_SAMPLING: tuple[Option, ...] = ("max_tokens", "temperature", "top_p", "repetition_penalty", "seed")
NARROWING: tuple[Option, ...] = ("sources", "since", "until")
"""Which documents are searched: fewer than the task's, so that any sender may."""
_TEXT: tuple[Option, ...] = (*_SAMPLING, "stop", "stream")

ALLOWED: Mapping[Kind, tuple[Option, ...]] = {
    "classify": _COMMON,
    "extract": (*_COMMON, *_SAMPLING),
    "answer": (*_COMMON, *_TEXT, "context", *NARROWING),
    "summarize": (*_COMMON, *_TEXT),
    "generate": (*_COMMON, *_TEXT),
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
"""The options that mean something to a kind, so that ``allow`` may name them."""
