"""Zero-shot section of a manifest: an encoder that labels texts, or finds spans in them, by labels that it
was never trained for.

The encoder's graph gives token vectors. The layers after it are small and run in numpy; the ``.npz`` file
``weights`` of the bundle has their float32 arrays. ``engine.worker.zero_shot`` computes them, and
``edgeslm-export encoder`` writes them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from edgeslm.bundle.learned_task import Section

MOST_LABELS = 100
"""Maximum number of labels of one call, as in the option ``labels`` of a request."""
MOST_TOKENS = 2048
"""Maximum context length of a zero-shot encoder. Attention takes memory and time by the square of the length,
and some encoders allow 8,192 tokens."""
MOST_CALL_TOKENS = 32_768
"""Maximum number of tokens that a model with a pass for each label reads in one call: 327 for each of 100
labels. A text is shorter, the more labels there are."""
HYPOTHESIS = "This text is about {}."
"""Default sentence of natural-language inference; ``{}`` stands for a label."""


class _Labels(Section):
    """Special tokens between the labels and the text: ``label_token`` before each label, ``text_token`` after
    the last one. A label's vector is that of its ``label_token``, or of the token after it."""

    weights: str = "layers.npz"
    label_token: int = Field(ge=0)
    text_token: int = Field(ge=0)
    after_label_token: bool = False


class Gliclass(_Labels):
    """GLiClass, uni-encoder: labels and text in one pass, and a score of each label with the text."""

    kind: Literal["gliclass"] = "gliclass"
    labels_first: bool = True
    label_pooling: Literal["first", "average"] = "first"
    text_pooling: Literal["first", "last", "avg", "sum", "max", "rms", "abs_max", "abs_avg"] = "first"
    text_only: bool = Field(default=False, description="pools the text alone, before zeros")
    scorer: Literal["dot", "weighted-dot", "mlp"] = "dot"
    activation: Literal["gelu", "relu", "tanh"] = "gelu"
    scale: float | None = Field(default=None, description="of the logits of normalized vectors")
    lstm_layers: int = Field(default=0, ge=0, le=1)


class Gliner(_Labels):
    """GLiNER, uni-encoder by spans: scores of all spans of up to ``longest`` words for each label.

    ``least`` is the lowest probability of a span that counts as found.
    """

    kind: Literal["gliner"] = "gliner"
    longest: int = Field(ge=1, le=100)
    most_words: int = Field(ge=1, le=2048)
    word_pooling: Literal["first", "last", "mean", "max"] = "first"
    marker: Literal["marker", "markerV0"] = "markerV0"
    lstm_layers: int = Field(default=0, ge=0, le=4)
    least: float = Field(default=0.5, ge=0.01, lt=1)


class Nli(Section):
    """Natural-language inference: the entailment of ``hypothesis`` with each label, a pass for each.

    ``entailment`` and ``contradiction`` are rows of the classifier; without the latter it is the row that
    transformers takes: the first, or the last if the first is the entailment. The vector of the text pair is
    pooled as the section ``encoder`` says. With ``segments``, the hypothesis is marked as the second segment.
    """

    kind: Literal["nli"] = "nli"
    weights: str = "layers.npz"
    hypothesis: str = Field(default=HYPOTHESIS, pattern=r"^[^{}]*\{\}[^{}]*$", max_length=500)
    classes: int = Field(ge=2, le=10)
    entailment: int = Field(ge=0)
    contradiction: int | None = Field(default=None, ge=0)
    segments: bool = True
    activation: Literal["gelu", "relu", "tanh"] | None = Field(default=None, description="of a dense layer")


ZeroShotSection = Annotated[Gliclass | Gliner | Nli, Field(discriminator="kind")]


def read_section(value: Any) -> Gliclass | Gliner | Nli:
    """The section of a manifest. :raises ValueError: it isn't one (pydantic's error)."""
    section: Gliclass | Gliner | Nli = TypeAdapter(ZeroShotSection).validate_python(value)
    return section
