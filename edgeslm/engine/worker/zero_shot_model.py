"""Zero-shot model, base class: token ids of labels and a text for one pass of the encoder, and limits.

Labels and texts are untrusted: they are encoded with special tokens disabled, and the special tokens between
them are inserted by their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import numpy as np

from edgeslm.bundle.spans import Run
from edgeslm.bundle.zero_shot import MOST_CALL_TOKENS, MOST_LABELS
from edgeslm.engine.calls import IsCancelled, Overflow
from edgeslm.engine.worker.layers import Arrays, Floats
from edgeslm.errors import BundleError, InternalError, InvalidRequest
from edgeslm.messages import Truncated

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXT_SHARE: Final = 4
"""A text may have at least the context length divided by this number; labels may take the rest."""
PROBE_TEXT: Final = "The pump in hall 4 is hot."
PROBE_LABELS: Final = ("machine", "weather")


class Forward(Protocol):
    """Runs the encoder: token ids and, for text pairs, their segments -> vectors [tokens, dimension]."""

    def __call__(self, ids: Sequence[int], kinds: Sequence[int] | None = None, /) -> Floats: ...


@dataclass(frozen=True, slots=True)
class Labelled:
    """Probabilities of the labels, which sum to 1, or that of a single label; the number of tokens read, and
    the truncation."""

    probabilities: tuple[float, ...]
    tokens: int
    truncated: Truncated | None


@dataclass(frozen=True, slots=True)
class Found:
    """Spans of each label as character offsets with probabilities, best first; and for each label the highest
    probability of any span."""

    places: tuple[tuple[Run, ...], ...]
    best: tuple[float, ...]
    tokens: int
    truncated: Truncated | None


@dataclass(frozen=True, slots=True)
class TokenEncoder:
    """An encoder with its tokenizer. ``lead`` and ``tail`` are the token ids that the tokenizer adds before
    and after a text; ``name`` is the bundle's folder, for errors."""

    name: str
    tokenizer: Tokenizer
    forward: Forward
    context_length: int
    lead: tuple[int, ...]
    tail: tuple[int, ...]

    @classmethod
    def of(cls, name: str, tokenizer: Tokenizer, forward: Forward, context_length: int) -> TokenEncoder:
        encoding = tokenizer.encode("a")
        ids, bare = encoding.ids, [at for at, on in enumerate(encoding.special_tokens_mask) if not on]
        first, last = (bare[0], bare[-1] + 1) if bare else (len(ids), len(ids))
        return cls(name, tokenizer, forward, context_length, tuple(ids[:first]), tuple(ids[last:]))

    def bare(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


class ZeroShotModel:
    """A zero-shot model.

    :param encoder: the encoder, which gives the token vectors.
    :param arrays: the arrays of the layers after it, by name.
    """

    def __init__(self, encoder: TokenEncoder, arrays: Arrays) -> None:
        self._encoder, self._arrays = encoder, arrays

    def label(self, text: str, labels: Sequence[str], overflow: Overflow, cancelled: IsCancelled) -> Labelled:
        """:raises RequestError: the labels or the text don't fit, or the model computes numbers that aren't
        finite. :raises BundleError: the model doesn't label texts."""
        return self._refuse("labels no texts; name one of kind gliclass or nli")

    def find(self, text: str, labels: Sequence[str], overflow: Overflow, least: float | None) -> Found:
        """:param least: lowest probability of a span; None: the model's own. :raises RequestError: see
        ``label``. :raises BundleError: the model finds no spans."""
        return self._refuse("finds no spans; name one of kind gliner")

    def probe(self) -> None:
        """Runs the model once, so that a faulty bundle is refused when it is loaded."""
        self.label(PROBE_TEXT, PROBE_LABELS, "error", lambda: False)

    def room(self, used: int, labels: Sequence[str], passes: int = 1) -> int:
        """Number of tokens for the text if labels and special tokens take ``used``.

        :param passes: number of passes of a call, which share ``MOST_CALL_TOKENS``.
        :raises InvalidRequest: the labels leave too little room.
        """
        length = min(self._encoder.context_length, MOST_CALL_TOKENS // passes)
        if length - used < length // _TEXT_SHARE:
            what = f"the {len(labels)} labels take" if passes == 1 else f"each of {passes} labels takes"
            raise InvalidRequest(
                f"{what} {used} of {length} tokens, so that a text hardly fits; name fewer labels, or "
                "shorten their meanings"
            )
        return length - used

    def finite(self, scores: Floats) -> Floats:
        """:raises InternalError: a score isn't finite, which must not look like a label that doesn't fit."""
        if not np.isfinite(scores).all():
            raise InternalError(f"the model {self._encoder.name} computes numbers that are not finite")
        return scores

    def _refuse(self, what: str) -> NoReturn:
        raise BundleError(f"{self._encoder.name}: a zero-shot model that {what}")


def quietly() -> np.errstate:
    """Context without warnings of numbers that aren't finite, which ``ZeroShotModel.finite`` refuses."""
    return np.errstate(over="ignore", invalid="ignore")


def check_labels(labels: Sequence[str]) -> None:
    """:raises InvalidRequest: there are no labels or too many, or one is empty or there twice."""
    if not 1 <= len(labels) <= MOST_LABELS:
        raise InvalidRequest(f"{len(labels)} labels; a zero-shot model takes 1 to {MOST_LABELS}")
    if len(set(labels)) != len(labels) or not all(label.strip() for label in labels):
        raise InvalidRequest("a label is empty, or is there twice")
