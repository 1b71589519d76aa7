"""Engine calls: what a task can ask of an engine, and what comes back. Values that cross the pipe.

Text that comes from outside is always wrapped in ``Text``: the worker encodes it with special tokens
switched off, so a message that spells ``<|im_end|>`` stays text.
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
"""What to keep of a text that is too long: nothing (an error), its head, its tail, or both ends
without the middle."""
Power = Literal["performance", "balanced", "idle"]
"""How threads of an engine wait for work (``waiting``)."""
BALANCED: Power = "balanced"
"""Where nobody says how."""
Device = Literal["cpu", "cuda"]

ANY = "-"
"""On the worker's command line: in the place of a digest, no certain bundle is asked for."""

Adapters = Mapping[Path, str | None]
"""Folders of adapter bundles, each with the digest that its bundle must have, or None."""

NO_ADAPTERS: Adapters = MappingProxyType({})


class OnText(Protocol):
    """Gets each piece of a text while it is written."""

    def __call__(self, text: str, /) -> None: ...


class OnHang(Protocol):
    """Is told that a call ended its worker, by not noticing that it was given up."""

    def __call__(self) -> None: ...


class IsCancelled(Protocol):
    """Tells between two steps whether a call was given up."""

    def __call__(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Hardware:
    """What computes a model: ``threads`` of the CPU, 0 for as many as are best, the device, and how many
    workers with so many threads each."""

    threads: int = 0
    device: Device = "cpu"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Text:
    """A text from outside. ``cut`` marks the one, at most one a prompt, that ``overflow`` may shorten."""

    value: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a chat, made of fixed strings and texts from outside."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Text, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A chat up to the model's turn.

    The system turn, if any, comes first; the worker folds it into the first user turn for models whose
    template has no system role.
    """

    turns: tuple[Turn, ...]
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True)
class Guide:
    """A grammar that the output can't leave."""

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
    """Decode up to ``max_tokens`` new tokens; ends at the model's end token or a ``stop`` string."""

    prompt: Prompt
    max_tokens: int
    sampling: Sampling = Sampling()
    guide: Guide | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    adapter: str | None = None
    """Folder of an adapter bundle that the engine was started with; None computes with the base alone."""
    only_read: bool = False
    """Reads the prompt, so that it is in the cache, and writes nothing."""


@dataclass(frozen=True, slots=True)
class Score:
    """Probability of each label as the model's whole answer; nothing is decoded. ``only_read``: nobody waits
    for it, it is there for its beginning to be known."""

    prompt: Prompt
    labels: tuple[str, ...]
    adapter: str | None = None
    only_read: bool = False


@dataclass(frozen=True, slots=True)
class Embed:
    """One vector a text."""

    texts: tuple[str, ...]
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True)
class Classify:
    """Probability of each label by a learned head (``head`` is its folder) on the encoder's embedding.

    ``digest`` is what the head's bundle must be, if that is known.
    """

    text: str
    head: str
    overflow: Overflow = "error"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """The fields of a learned extract task, by the head in the folder ``head`` on the encoder's tokens."""

    text: str
    head: str
    overflow: Overflow = "error"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """How likely each text answers the question and where, by a reader: an encoder taught to read both."""

    question: str
    texts: tuple[str, ...]


Call = Generate | Score | Embed | Classify | Point | Read


@dataclass(frozen=True, slots=True)
class Pointed:
    """What a head says of one field: how likely each of its options is, in their order, and the likeliest
    places in the message, as offsets of characters with their share of all places."""

    options: tuple[float, ...]
    places: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call took inside the worker: milliseconds and tokens."""

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
    """What a call came to. Which field is set follows from the call.

    ``text`` and ``finish_reason`` (``stop`` or ``length``): Generate. ``probabilities``: Score and
    Classify, in the order of the labels, summing to 1; Read, one a text. ``places``: Read, where in each text
    the answer would stand, the likeliest first; none of a reader that doesn't point. ``distance``: Classify,
    how far the text lies from what the head learned from, 0 to 2, of Point too. ``fields``: Point.
    ``vectors``: Embed.
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
    """What a worker says of its model once it is loaded."""

    kind: str
    context_length: int
    threads: int
    load_ms: float
    prepared: bool = False
    """Whether it computes with weights that were laid out for this machine before (``prepare``)."""
