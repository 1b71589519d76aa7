"""Zero-shot labels by natural-language inference (Yin et al., 2019): how strongly a text entails a sentence
about each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edgeslm.bundle.zero_shot import Nli
from edgeslm.engine.calls import IsCancelled, Overflow
from edgeslm.engine.worker.layers import (
    Arrays,
    Floats,
    activate,
    dense,
    dense_shapes,
    layer_norm,
    softmax,
)
from edgeslm.engine.worker.overflow import fit
from edgeslm.engine.worker.zero_shot_model import Labelled, TokenEncoder, ZeroShotModel, check_labels
from edgeslm.errors import Cancelled
from edgeslm.messages import Truncated

_SHORT: Final = "a"
"""Text whose tokens show where the text of a pair stands."""


class NliModel(ZeroShotModel):
    """Computes what the zero-shot pipeline of transformers does: the softmax of the labels' logits for
    entailment, or for a single label of its logits for entailment and contradiction.

    :param pooling: how the vectors of a text pair become one, as in ``EncoderSection``.
    """

    def __init__(self, section: Nli, pooling: str, encoder: TokenEncoder, arrays: Arrays) -> None:
        super().__init__(encoder, arrays)
        self._section, self._pooling = section, pooling

    def label(self, text: str, labels: Sequence[str], overflow: Overflow, cancelled: IsCancelled) -> Labelled:
        check_labels(labels)
        bare, entailment = self._encoder.bare(text), self._section.entailment
        logits, tokens, truncated = [], 0, None
        for label in labels:
            if cancelled():
                raise Cancelled("cancelled while it was running")
            ids, kinds, cut = self._encode_pair(bare, label, labels, overflow)
            logits.append(self.logits(self._encoder.forward(ids, kinds)))
            tokens, truncated = tokens + len(ids), cut or truncated
        scores = self.finite(np.stack(logits))
        if len(labels) == 1:
            found = softmax(scores[0, [entailment, self._contradiction]])[:1]
        else:
            found = softmax(scores[:, entailment])
        return Labelled(tuple(map(float, found)), tokens, truncated)

    @property
    def _contradiction(self) -> int:
        """Row of the classifier."""
        if self._section.contradiction is not None:
            return self._section.contradiction
        return self._section.classes - 1 if self._section.entailment == 0 else 0

    def logits(self, hidden: Floats) -> Floats:
        """Logits [classes] of the token vectors [tokens, dimension] of a text pair."""
        return classify_pair(self._arrays, self._section, self._pooling, hidden)

    def _encode_pair(
        self, text: list[int], label: str, labels: Sequence[str], overflow: Overflow
    ) -> tuple[list[int], list[int], Truncated | None]:
        """Token ids and segments of the text with a hypothesis; only the text is truncated.

        :param text: token ids of the text alone. They replace those of a short one, so that a long text is
            tokenized once and not for each label.
        """
        hypothesis = self._section.hypothesis.replace("{}", label)
        encoding = self._encoder.tokenizer.encode(_SHORT, hypothesis)
        ids, kinds, parts = encoding.ids, encoding.type_ids, encoding.sequence_ids
        start = parts.index(0)
        end = start + parts.count(0)
        room = self.room(len(ids) - (end - start), labels, passes=len(labels))
        kept, truncated = fit(text, room, overflow)
        whole = [*ids[:start], *kept, *ids[end:]]
        if not self._section.segments:
            return whole, [0] * len(whole), truncated
        return whole, [*kinds[:start], *[kinds[start]] * len(kept), *kinds[end:]], truncated


def classify_pair(arrays: Arrays, section: Nli, pooling: str, hidden: Floats) -> Floats:
    """Logits [classes] of a classification head: pooled vector, optional dense layer with activation,
    optional normalization, classifier."""
    vector = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
    if section.activation is not None:
        vector = activate(section.activation, dense(arrays, "dense", vector))
    if "norm.weight" in arrays:
        vector = layer_norm(arrays, "norm", vector)
    return dense(arrays, "class", vector)


def nli_shapes(section: Nli, arrays: Arrays, dimension: int) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the arrays that the model needs."""
    shapes = dense_shapes("class", section.classes, dimension)
    if section.activation is not None:
        shapes |= dense_shapes("dense", dimension, dimension)
    if "norm.weight" in arrays:
        shapes |= {"norm.weight": (dimension,)}
    if "norm.bias" in arrays:
        shapes |= {"norm.bias": (dimension,)}
    return shapes
