"""Golden answers: the outputs of a decoder for a few prompts, recorded on the build machine, to check that
the decoder computes correctly on this machine.

Exact logits differ between CPUs, since kernels round activations to 8 bits in different groups and add in
different orders. The check therefore compares next-token distributions. Each prompt is prefilled except for
its last token, which is decoded alone, so that both the prefill and the decode kernels are tested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeslm.bundle.manifest import Bundle
from edgeslm.errors import BundleError
from edgeslm.hardware.board import usable_cores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FILE: Final = "golden.json"
MOST_APART: Final = 0.1
"""Largest allowed divergence, in nats, of an answer from the build machine's answer. The limit is six times
the largest divergence that correct kernels showed. The answers of SmolLM2-135M diverge by up to 0.017 nats
between AVX-512 VNNI and AVX2, and by up to 0.010 nats between 8-bit and float activations. Damaged weights
diverge more: by 0.11 nats if zeros overwrite 64 KB, and by more than 4 nats if noise overwrites 4 KB."""
TEXTS: Final = (
    "What is the capital of France?",
    "Spindle 3 smells of burnt oil and the lights flicker when it starts. What should I look at first?",
    "Failed password for invalid user admin from 192.0.2.7 port 51022 ssh2. Which user was it?",
    '{"sensor": "flow-3", "value": 0.02, "note": "the valve was closed for cleaning"}',
    "The bearing of pump 7 was greased on Monday and ran hot on Wednesday. When was it greased?",
    "Die Pumpe in Halle 4 ist laut und wird heiß. Bitte vor der Schicht ansehen.",
    "In few words: the night shift changed a filter, the morning shift found the valve leaking again.",
    "Write one sentence that tells an operator to switch a machine off before its cover is opened.",
)
"""Prompts of the golden answers, written for this project, so every bundle may include them. They don't use
the chat template, since some templates insert the date and bundles must be reproducible."""
_KEPT: Final = 32
"""Number of tokens, the most likely first, whose probabilities an answer records; all other tokens count as
one sum."""
_LEAST: Final = 1e-9
"""Lower limit of the summed probability of all other tokens, since its logarithm is needed and rounding could
make the sum zero."""


class GoldenAnswer(BaseModel):
    """The most likely next ``tokens`` after the prompt ``ids``, and their log-probabilities ``log_probs`` in
    nats."""

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
        """Kullback-Leibler divergence, in nats, of a model on this machine from this answer; ``log_probs``
        are the log-probabilities that the model assigns to the ``tokens`` of this answer."""
        pairs = [*zip(self.log_probs, log_probs, strict=True), (_rest(self.log_probs), _rest(log_probs))]
        return sum(math.exp(own) * (own - other) for own, other in pairs)


class Golden(BaseModel):
    """Content of a bundle's ``golden.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    answers: tuple[GoldenAnswer, ...] = Field(min_length=1)


def _rest(log_probs: Sequence[float]) -> float:
    return math.log(max(1 - sum(map(math.exp, log_probs)), _LEAST))


def load_golden(bundle: Bundle) -> Golden | None:
    """Reads the golden answers of a bundle; returns None if the bundle has no golden answers.

    :raises BundleError: the file can't be read.
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


def record_answers(folder: Path) -> int:
    """Writes ``golden.json`` into a folder with a model and its tokenizer: the answers to ``TEXTS``.

    :return: the number of answers.
    :raises BundleError: the model computes values that aren't finite, or its tokenizer can't be read.
    """
    from edgeslm.engine.worker.loading import PLAIN
    from edgeslm.engine.worker.prompt import load_tokenizer

    tokenizer = load_tokenizer(folder)
    room = json.loads((folder / "genai_config.json").read_bytes())["model"]["context_length"] - 1
    prompts = [tokenizer.encode(text).ids[:room] for text in TEXTS]
    golden = record(PLAIN.load(folder, "", usable_cores()), prompts)
    if not all(math.isfinite(one) for answer in golden.answers for one in answer.log_probs):
        raise BundleError(f"{folder}: computes numbers that aren't finite; its weights may be damaged")
    (folder / FILE).write_text(golden.model_dump_json() + "\n")
    return len(golden.answers)


def record(model: Any, prompts: Iterable[Sequence[int]]) -> Golden:
    """Records the answers of onnxruntime-genai's ``model`` to prompts of at least two tokens."""
    import numpy as np

    answers = []
    for ids in prompts:
        log_probs = _log_probs(model, ids)
        likeliest = np.argsort(-log_probs, kind="stable")[:_KEPT]
        kept = tuple(round(float(log_probs[token]), 4) for token in likeliest)
        answers.append(GoldenAnswer(ids=tuple(ids), tokens=tuple(map(int, likeliest)), log_probs=kept))
    return Golden(answers=tuple(answers))


def divergences(model: Any, golden: Golden) -> Iterator[float]:
    """Divergence of ``model`` from each golden answer, in nats."""
    for answer in golden.answers:
        yield answer.divergence(_log_probs(model, answer.ids)[list(answer.tokens)].tolist())


def _log_probs(model: Any, ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Log-probabilities [vocabulary] of the token after ``ids``."""
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
