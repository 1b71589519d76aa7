"""Golden answers: what a decoder said to a few prompts on the build machine, and whether it says that here.

Exact numbers differ between processors: activations are rounded to 8 bits in other groups, sums are made in
another order. So the distributions of the next token are compared. Each prompt is read but for its last
token, which follows alone: the kernels of reading and those of writing both have a part in its answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeslm.bundle.manifest import Bundle
from edgeslm.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FILE: Final = "golden.json"
MOST_APART: Final = 0.1
"""Nats that an answer may lie from the build machine's. Six times what sound kernels came to: those of
SmolLM2-135M lie up to 0.017 apart between AVX-512 VNNI and AVX2, up to 0.010 between activations of 8 bits
and floats. Weights with 64 KB of zeros came to 0.11, with 4 KB of noise to more than 4."""
_KEPT: Final = 32
"""Likeliest tokens kept of an answer; all others together count as one more."""
_LEAST: Final = 1e-9
"""What is left for those others where rounding leaves nothing."""


class GoldenAnswer(BaseModel):
    """``log_probs`` are those of the likeliest next ``tokens`` after the prompt ``ids``, in nats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[int, ...] = Field(min_length=2)
    tokens: tuple[int, ...] = Field(min_length=1)
    log_probs: tuple[float, ...]

    @model_validator(mode="after")
    def _one_for_each(self) -> GoldenAnswer:
        if len(self.log_probs) != len(self.tokens):
            raise ValueError("a log-probability for each token is needed")
        return self

    def divergence(self, log_probs: Sequence[float]) -> float:
        """Kullback-Leibler divergence of other ``log_probs`` of the same tokens from this answer, in nats."""
        pairs = [*zip(self.log_probs, log_probs, strict=True), (_rest(self.log_probs), _rest(log_probs))]
        return sum(math.exp(own) * (own - other) for own, other in pairs)


class Golden(BaseModel):
    """``golden.json`` of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    answers: tuple[GoldenAnswer, ...] = Field(min_length=1)


def _rest(log_probs: Sequence[float]) -> float:
    return math.log(max(1 - sum(map(math.exp, log_probs)), _LEAST))


def load_golden(bundle: Bundle) -> Golden | None:
    """None of a bundle that has no such file.

    :raises BundleError: it can't be read.
    """
    if all(entry.path != FILE for entry in bundle.manifest.files):
        return None
    file = bundle.path / FILE
    try:
        return Golden.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BundleError(f"{file}: {error.strerror}") from None
    except ValidationError as error:
        raise BundleError(f"{file}: not golden answers ({error.errors()[0]['msg']})") from None


def record(model: Any, prompts: Iterable[Sequence[int]]) -> Golden:
    """What onnxruntime-genai's ``model`` says to prompts of two tokens or more each."""
    import numpy as np

    answers = []
    for ids in prompts:
        log_probs = _log_probs(model, ids)
        likeliest = np.argsort(-log_probs, kind="stable")[:_KEPT]
        kept = tuple(round(float(log_probs[token]), 4) for token in likeliest)
        answers.append(GoldenAnswer(ids=tuple(ids), tokens=tuple(map(int, likeliest)), log_probs=kept))
    return Golden(answers=tuple(answers))


def divergences(model: Any, golden: Golden) -> Iterator[float]:
    """How far what ``model`` says lies from each of the golden answers, in nats."""
    for answer in golden.answers:
        yield answer.divergence(_log_probs(model, answer.ids)[list(answer.tokens)].tolist())


def _log_probs(model: Any, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log-probabilities [vocabulary] of the token that follows ``ids``."""
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(ids) + 1, do_sample=False)
    generator = og.Generator(model, params)
    for part in (ids[:-1], ids[-1:]):
        generator.append_tokens(np.asarray(part, np.int32))
    logits = np.asarray(generator.get_logits(), np.float64)
    last = logits.reshape(-1, logits.shape[-1])[-1]
    last = last - last.max()
    shares: npt.NDArray[np.float64] = last - np.log(np.exp(last).sum())
    return shares
