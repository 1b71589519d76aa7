"""Engine calls: the requests that tasks send to a model worker, and its outputs.

Text from outside is always wrapped in ``Text``. The worker encodes it with special tokens disabled, so a
message that contains ``<
im_end
>`` stays plain text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol

from edgeslm.bundle.spans import Run
from edgeslm.ipc.codec import Vector
from edgeslm.messages import Truncated

Overflow = Literal["error", "head", "tail", "middle"]
"""What to keep of a text that is too long: nothing (an error), its head, its tail, or both ends without the
middle."""
Power = Literal["performance", "balanced", "idle"]
"""How engine threads wait for work (``waiting``)."""
BALANCED: Power = "balanced"
"""The default."""
Device = Literal["cpu", "cuda"]

ANY = "-"
"""Placeholder on the worker's command line: any digest, or no cache."""

Adapters = Mapping[Path, str | None]
"""Adapter bundle folder -> required digest, None for any."""

NO_ADAPTERS: Adapters = MappingProxyType({})


class OnText(Protocol):
    """Receives each piece of a streamed text."""

    def __call__(self, text: str, /) -> None: ...


class OnHang(Protocol):
    """Called when a cancelled call did not stop in time and its worker was killed."""

    def __call__(self) -> None: ...


class IsCancelled(Protocol):
    """Polled between two steps of a call: whether it was cancelled."""

    def __call__(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a model runs on: CPU ``threads`` of each worker (0 chooses the fastest number), device, and number
    of workers."""

    threads: int = 0
    device: Device = "cpu"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Text:
    """Text from outside. ``cut`` marks the one text of a prompt, at most, that ``overflow`` may shorten."""

    value: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One chat message: fixed strings and texts from outside."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Text, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat up to the model's turn.

    The system turn, if any, comes first. If the chat template has no system role, the worker merges it into
    the first user turn.
    """

    turns: tuple[Turn, ...]
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True)
class Guide:
    """A grammar that constrains the output."""

    kind: Literal["json_schema", "regex", "lark_grammar"]
    source: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """``temperature`` 0 is greedy. ``seed`` makes sampling repeatable on one machine."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """Decode up to ``max_tokens`` new tokens, ending at the model's end token or a ``stop`` string."""

    prompt: Prompt
    max_tokens: int
    sampling: Sampling = Sampling()
    guide: Guide | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    adapter: str | None = None
    """Folder of an adapter bundle that the engine was started with; None uses the base model alone."""
    only_read: bool = False
    """Prefill only: put the prompt into the cache and generate nothing."""


@dataclass(frozen=True, slots=True)
class Score:
    """Probability of each label as the model's complete answer; nothing is decoded. ``only_read``: the call
    only warms the prefix cache."""

    prompt: Prompt
    labels: tuple[str, ...]
    adapter: str | None = None
    only_read: bool = False


@dataclass(frozen=True, slots=True)
class Embed:
    """One vector for each text."""

    texts: tuple[str, ...]
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True)
class Classify:
    """Probability of each label by a learned head (in the folder ``head``) on the encoder's embedding.

    ``digest``: the required digest of the head's bundle, None for any.
    """

    text: str
    head: str
    overflow: Overflow = "error"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Fields of a learned extract task: spans found by the head in the folder ``head``."""

    text: str
    head: str
    overflow: Overflow = "error"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """For each text, the probability that it answers the question, and where. Needs a reader
    (cross-encoder)."""

    question: str
    texts: tuple[str, ...]


Call = Generate | Score | Embed | Classify | Point | Read


@dataclass(frozen=True, slots=True)
class Pointed:
    """One field of a learned extract task: the probability of each option, in order, and the most likely
    spans in the message (character offsets with their share of all spans)."""

    options: tuple[float, ...]
    places: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """Time (milliseconds) and tokens that a call took in the worker."""

    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.prefill_ms + other.prefill_ms,
            self.decode_ms + other.decode_ms,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a call; the kind of call decides which fields are set.

    ``text`` and ``finish_reason`` (``stop`` or ``length``): Generate. ``probabilities``: Score and Classify,
    in the order of the labels, summing to 1; Read, one for each text. ``places``: Read, the most likely
    answer spans of each text, best first; empty if the reader finds no spans. ``distance``: Classify and
    Point, cosine distance (0 to 2) of the text from the head's training data. ``fields``: Point. ``vectors``:
    Embed.
    """

    cost: Cost = Cost()
    text: str = ""
    finish_reason: str = ""
    probabilities: tuple[float, ...] = ()
    places: tuple[tuple[Run, ...], ...] = ()
    fields: tuple[Pointed, ...] = ()
    vectors: tuple[Vector, ...] = ()
    distance: float | None = None
    truncated: Truncated | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a worker reports about its loaded model."""

    kind: str
    context_length: int
    threads: int
    load_ms: float
    prepared: bool = False
    """Whether it uses prepacked weights (``prepack``)."""
