"""Statements: sentences of a model's output that a source supports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeslm.knowledge.documents.sentences import split_sentences
from edgeslm.tasks.extractive import best_sentences
from edgeslm.tasks.parts import split_parts
from edgeslm.tasks.support import Evidence

if TYPE_CHECKING:
    from edgeslm.tasks.task import OnChunk

_ENDS = (".", "!", "?", "…", "。", "！", "？", '"', "”", "’", ")")


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence and the names of the sources that support it.

    ``gap``: whitespace before the sentence. ``is_extract``: whether the sentence was copied from its source
    instead of written by a model.
    """

    text: str
    sources: tuple[str, ...]
    gap: str = " "
    is_extract: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """Checks sentences against sources. Up to ``together`` sources may support a sentence jointly.

    ``among``: indexes of the sources to use; None for all. If ``is_strict`` is false, every sentence passes.
    """

    evidence: Evidence
    names: Sequence[str]
    together: int = 1
    among: Sequence[int] | None = None
    is_strict: bool = True

    def support(self, sentence: str) -> tuple[str, ...] | None:
        """Names of the sources that support a sentence, in source order; None if the sentence doesn't pass.

        A sentence that passes without support gets the names of all sources.
        """
        support = self.evidence.support(sentence, together=self.together, among=self.among)
        numbers: Iterable[int] = sorted(support.sources)
        if not support:
            if self.is_strict:
                return None
            numbers = range(len(self.names)) if self.among is None else self.among
        return tuple(self.names[number] for number in numbers)

    def statements(self, text: str) -> Iterator[Statement]:
        """Yields the sentences of ``text`` that pass the check, without repetitions."""
        said: set[str] = set()
        place = 0
        for start, end in split_sentences(text):
            sentence, gap = text[start:end], text[place:start]
            place = end
            gist = gist_of(sentence)
            if gist not in said and (sources := self.support(sentence)) is not None:
                yield Statement(sentence, sources, gap or " ")
                said.add(gist)


def extract(text: str, *, most: int = 2, limit: int = 2_000, offset: int = 0) -> list[Statement]:
    """The most central sentences of ``text``; the source of each sentence is its position in the request's
    input, such as ``input[0:120]``.

    :param limit: maximum length of all sentences, in characters; if the first sentence is longer, it is cut
        between words.
    :param offset: position of ``text`` in the input.
    """
    found: list[Statement] = []
    for start, end in best_sentences(text, most=most):
        if not found and end - start > limit:
            end = start + split_parts(text[start:end], limit)[0][1]
        limit -= end - start
        if limit < 0:
            break
        words = " ".join(text[start:end].split())
        found.append(Statement(words, (name_of(offset + start, offset + end),), is_extract=True))
    return found


def gist_of(sentence: str) -> str:
    """A sentence normalised for comparison: lower case and single spaces."""
    return " ".join(sentence.casefold().split())


def name_of(start: int, end: int) -> str:
    """Name that results use for a part of the input, such as ``input[0:120]``."""
    return f"input[{start}:{end}]"


def without_rest(text: str, finish_reason: str) -> str:
    """Drops the last sentence if ``max_tokens`` cut it off, unless it is the only sentence."""
    if finish_reason != "length" or text.rstrip().endswith(_ENDS):
        return text
    spans = split_sentences(text)
    return text[: spans[-2][1]] if len(spans) > 1 else text


def join(statements: Sequence[Statement]) -> str:
    return "".join(one.gap + one.text for one in statements).strip()


class SentenceStream:
    """Streams a growing text, one checked sentence at a time."""

    def __init__(self, check: Check, on_chunk: OnChunk) -> None:
        self._check = check
        self._on_chunk = on_chunk
        self._text = ""
        self._emitted = ""
        self._complete = 0

    def feed(self, piece: str) -> None:
        self._text += piece
        spans = split_sentences(self._text)
        if len(spans) - 1 > self._complete:  # the last one may be incomplete
            self._complete = len(spans) - 1
            self._emit(join(list(self._check.statements(self._text[: spans[-2][1]]))))

    def finish(self, text: str) -> None:
        """Streams the part of the final ``text`` that was not streamed yet."""
        self._emit(text)

    def _emit(self, text: str) -> None:
        if text.startswith(self._emitted) and len(text) > len(self._emitted):
            self._on_chunk(text[len(self._emitted) :])
            self._emitted = text
