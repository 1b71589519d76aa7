"""Zero-shot labels by natural-language inference (Yin et al., 2019): how strongly a text entails a sentence
about each label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


class NliModel(ZeroShotModel):
    """Computes what the zero-shot pipeline of transformers does for one of several labels: the softmax of the
    logits for entailment.

    :param pooling: how the vectors of a text pair become one, as in ``EncoderSection``.
    """

    def __init__(self, section: Nli, pooling: str, encoder: TokenEncoder, arrays: Arrays) -> None:
        super().__init__(encoder, arrays)
        self._section, self._pooling = section, pooling

    def label(self, text: str, labels: Sequence[str], overflow: Overflow, cancelled: IsCancelled) -> Labelled:
        check_labels(labels)
        logits, tokens, truncated = [], 0, None
        for label in labels:
            if cancelled():
                raise Cancelled("cancelled while it was running")
            hypothesis = self._section.hypothesis.replace("{}", label)
            ids, kinds, cut = self._encode_pair(text, hypothesis, labels, overflow)
            logits.append(self.logits(self._encoder.forward(ids, kinds))[self._section.entailment])
            tokens, truncated = tokens + len(ids), cut or truncated
        found = softmax(self.finite(np.array(logits, np.float32)))
        return Labelled(tuple(map(float, found)), tokens, truncated)

    def logits(self, hidden: Floats) -> Floats:
        """Logits [classes] of the token vectors [tokens, dimension] of a text pair."""
        return classify_pair(self._arrays, self._section, self._pooling, hidden)

    def _encode_pair(
        self, text: str, hypothesis: str, labels: Sequence[str], overflow: Overflow
    ) -> tuple[list[int], list[int], Truncated | None]:
        """Token ids and segments of the text with a hypothesis; only the text is truncated."""
        encoding = self._encoder.tokenizer.encode(text, hypothesis)
        parts = encoding.sequence_ids
        of_text = [at for at, part in enumerate(parts) if part == 0]
        kept, truncated = fit(of_text, self.room(len(parts) - len(of_text), labels), overflow)
        dropped = set(of_text) - set(kept)
        order = [at for at in range(len(parts)) if at not in dropped]
        ids = encoding.ids
        kinds = encoding.type_ids if self._section.segments else [0] * len(ids)
        return [ids[at] for at in order], [kinds[at] for at in order], truncated


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
