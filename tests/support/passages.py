"""Passages for tests, as a search returns them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeslm.knowledge.index.queries import EVERYTHING, Filter, Found


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


class FakeDocuments:
    """Collections in which every search returns the same passages.

    ``asked`` records searches with their options, ``compared`` the passages compared with a question;
    ``only`` is the documents of the last search.
    """

    def __init__(self, *found: Found, computed: Any = None) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.compared: list[tuple[Any, ...]] = []
        self._found = found
        self._computed = computed

    async def search(
        self,
        question: str,
        collections: Sequence[str],
        k: int,
        priority: int = 5,
        *,
        only: Filter = EVERYTHING,
        by_sentence: bool = False,
    ) -> Sequence[Found]:
        self.only = only
        self.asked.append((question, tuple(collections), k, priority, by_sentence))
        return self._found[:k]

    async def compare(
        self, question: str, found: Sequence[Found], collections: Sequence[str], priority: int = 5
    ) -> Sequence[Found]:
        texts = tuple(one.text for one in found)
        self.compared.append((question, texts, tuple(collections), priority))
        return found

    async def compute(self, question: str, collections: Sequence[str], only: Filter = EVERYTHING) -> Any:
        return self._computed
