"""Passages as a search finds them, made by tests."""

from __future__ import annotations

from typing import Any

from edgeslm.knowledge.search import Found


def make_found(text: str, **fields: Any) -> Found:
    known: dict[str, Any] = {
        "id": text[:12].strip().lower(),
        "source": "manual.md",
        "heading": "",
        "start": 100,
        "end": 100 + len(text),
        "score": 0.9,
        "bm25": 8.0,
        "cosine": 0.7,
        "overlap": 1.0,
        "margin": 0.2,
    }
    return Found(text=text, **{**known, **fields})
