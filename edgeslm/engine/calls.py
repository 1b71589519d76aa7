"""Engine calls: the requests that tasks send to a model worker, and its outputs.

Untrusted text, such as a message or a document, is always wrapped in ``Text``. The worker encodes untrusted
text with special tokens disabled, so a message that contains ``<|im_end|>`` stays plain text.
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
"""Which part of a text is kept if the text is too long: none (the call fails), the head, the tail, or both
ends without the middle."""
Power = Literal["performance", "balanced", "idle"]
"""How long the engine's idle CPU threads spin before they sleep (``worker.waiting``)."""
BALANCED: Power = "balanced"
"""The default."""
Device = Literal["cpu", "cuda"]

ANY = "-"
"""Worker argument that stands for no value. If it is given as the digest, the worker accepts any bundle; if
it is given as the cache folder, the worker uses no cache."""

Adapters = Mapping[Path, str | None]
"""Maps the folder of each adapter bundle to the digest that the bundle must have, or to None to accept any
digest."""

NO_ADAPTERS: Adapters = MappingProxyType({})


class OnText(Protocol):
    """Receives each piece of a streamed text."""

    def __call__(self, text: str, /) -> None: ...


class OnHang(Protocol):
    """Called when a cancelled call did not stop in time and its worker was killed."""

    def __call__(self) -> None: ...


class IsCancelled(Protocol):
    """Polled between two steps of a call; returns whether the call was cancelled."""

    def __call__(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Hardware:
    """The resources of a model: the device, the number of workers, and the number of CPU ``threads`` of each
    worker (0 chooses the fastest number)."""

    threads: int = 0
    device: Device = "cpu"
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Text:
    """Untrusted text. If ``cut`` is true, the worker may shorten the text to fit the prompt into the context;
    the prompt's ``overflow`` says how. In a prompt, ``cut`` may be true for at most one text."""

    value: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call; ``arguments`` is a JSON object, as text. Both are untrusted."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Turn:
    """One chat message, composed of fixed strings and untrusted texts. ``calls`` are those of a turn of the
    assistant; a turn of the role ``tool`` is the result of one call."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: tuple[str | Text, ...]
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. ``shown`` is its JSON as the model reads it, and ``schema`` the
    JSON Schema of its arguments, as texts. Both are untrusted."""

    name: str
    shown: str
    schema: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of a chat, before the model's answer.

    The system message, if any, comes first. If the chat template has no system role, the worker merges the
    system message into the first user message. ``tools`` are shown in the way of the chat template, or in
    ChatML's way if the template has none.
    """

    turns: tuple[Turn, ...]
    overflow: Overflow = "error"
    tools: tuple[Tool, ...] = ()
    cut_tokens: int | None = None
    """Maximum number of tokens of the text that may be cut; None for as many as there is room for."""


@dataclass(frozen=True, slots=True)
class Guide:
    """A grammar that constrains the output."""

    kind: Literal["json_schema", "regex", "lark_grammar"]
    source: str


@dataclass(frozen=True, slots=True)
class CallRule:
    """Which of the prompt's tools the answer may call: at most ``most`` calls of the tools ``names``. If
    ``or_text``, the answer may be a text instead, or end with calls after it."""

    names: tuple[str, ...]
    most: int = 1
    or_text: bool = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters. With ``temperature`` 0, decoding is greedy. ``seed`` makes sampling repeatable on
    one machine."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generate:
    """Decode up to ``max_tokens`` new tokens, ending at the model's end token or a ``stop`` string.

    With ``calls``, a grammar lets the answer be calls of these tools; ``guide``, a JSON Schema, is then for
    the text. Without ``calls``, a grammar keeps a text from calling tools of the prompt.
    """

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
    calls: CallRule | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """Compute the probability of each label as the model's complete answer, without decoding. With
    ``only_read``, the call only warms the prefix cache."""

    prompt: Prompt
    labels: tuple[str, ...]
    adapter: str | None = None
    only_read: bool = False


@dataclass(frozen=True, slots=True)
class Embed:
    """Compute one embedding vector for each text."""

    texts: tuple[str, ...]
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True)
class Classify:
    """Compute the probability of each label with a trained head on the encoder's embedding of the text.

    ``head`` is the folder of the head's bundle, and ``digest`` the required digest of this bundle; None
    accepts any bundle.
    """

    text: str
    head: str
    overflow: Overflow = "error"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Extract from the text the fields that the head was trained for. ``head`` is the folder of the head's
    bundle, and ``digest`` the required digest of this bundle; None accepts any bundle."""

    text: str
    head: str
    overflow: Overflow = "error"
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Compute for each text the probability that it answers the question, and the spans that answer it. The
    model must be a reader (cross-encoder) or a decoder.

    ``text_tokens`` is the maximum number of tokens of a text; None for as many as fit the context. The rest
    of a text is cut.
    """

    question: str
    texts: tuple[str, ...]
    text_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class LabelText:
    """Compute the probability of each label for the text with a zero-shot model. ``labels`` are the phrases
    that the model reads, such as a label with its meaning."""

    text: str
    labels: tuple[str, ...]
    overflow: Overflow = "error"


@dataclass(frozen=True, slots=True)
class FindSpans:
    """Find the spans of the text for each label with a zero-shot model (``gliner``). ``least`` is the lowest
    probability of a span; None takes the model's own."""

    text: str
    labels: tuple[str, ...]
    overflow: Overflow = "error"
    least: float | None = None


Call = Generate | Score | Embed | Classify | Point | Read | LabelText | FindSpans


@dataclass(frozen=True, slots=True)
class Pointed:
    """Result for one field that a head extracts. ``options`` has the probability of each option, in the order
    that ``LearnedField`` describes. ``places`` has the most likely spans of the message, each with its
    character offsets and its probability."""

    options: tuple[float, ...]
    places: tuple[Run, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """Time in milliseconds, and number of tokens, that a call took in the worker."""

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

    ``Generate`` sets ``text``, ``finish_reason`` (``stop`` or ``length``) and ``calls``. ``Score``,
    ``Classify`` and ``LabelText`` set ``probabilities`` to one probability for each label, in the order of
    the labels; the probabilities sum to 1. ``Read`` sets ``probabilities`` to one probability for each text.
    ``Read`` also sets ``cut``, the numbers of the texts that were cut, and ``places``, the most likely answer
    spans of each text, best first; they are empty if the reader isn't trained for spans. ``FindSpans`` sets
    ``places`` to the spans of each label, best first, none of which overlap, and ``probabilities`` to the
    highest probability of any span for each label. ``Classify`` and ``Point`` set ``distance``, the cosine
    distance (0 to 2) of the text from the head's training data. ``Point`` sets ``fields``, and ``Embed`` sets
    ``vectors``.
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
    cut: tuple[int, ...] = ()
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a worker reports about its loaded model."""

    kind: str
    context_length: int
    threads: int
    load_ms: float
    prepared: bool = False
    """Whether the worker uses prepacked weights (``prepack``)."""
