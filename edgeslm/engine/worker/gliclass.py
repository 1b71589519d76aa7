"""GLiClass (Stepanov et al., 2025): labels and text in one pass, and a score for each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from edgeslm.bundle.zero_shot import Gliclass
from edgeslm.engine.calls import IsCancelled, Overflow
from edgeslm.engine.worker.layers import (
    Arrays,
    Floats,
    activate,
    dense,
    dense_shapes,
    lstm,
    lstm_shapes,
    relu,
    sigmoid,
    softmax,
)
from edgeslm.engine.worker.overflow import fit
from edgeslm.engine.worker.zero_shot_model import Labelled, TokenEncoder, ZeroShotModel, check_labels

_TINY: Final = np.float32(1e-8)


class GliclassModel(ZeroShotModel):
    """Computes what ``GLiClassUniEncoder.process_encoder_output`` of the library does."""

    def __init__(self, section: Gliclass, encoder: TokenEncoder, arrays: Arrays) -> None:
        super().__init__(encoder, arrays)
        self._section = section

    def label(self, text: str, labels: Sequence[str], overflow: Overflow, cancelled: IsCancelled) -> Labelled:
        check_labels(labels)
        section, encoder = self._section, self._encoder
        prompt: list[int] = []
        for label in labels:
            prompt += [section.label_token, *encoder.bare(label)]
        prompt.append(section.text_token)
        room = self.room(len(encoder.lead) + len(prompt) + len(encoder.tail), labels)
        bare, truncated = fit(encoder.bare(text), room, overflow)
        parts = (prompt, bare) if section.labels_first else (bare, prompt)
        ids = [*encoder.lead, *parts[0], *parts[1], *encoder.tail]
        logits = self.finite(self.logits(encoder.forward(ids), ids))
        shares = softmax(logits) if len(labels) > 1 else sigmoid(logits)
        return Labelled(tuple(map(float, shares)), len(ids), truncated)

    def logits(self, hidden: Floats, ids: Sequence[int]) -> Floats:
        """Logits [labels] of token vectors [tokens, dimension]."""
        section, arrays = self._section, self._arrays
        where = np.asarray(ids)
        text = _pool(section.text_pooling, self._text(hidden, where))
        text = self._project("text", text)
        label = self._project("label", self._labels(hidden, where))
        if section.scale is not None:
            text = text / (np.linalg.norm(text) + _TINY)
            label = label / (np.linalg.norm(label, axis=-1, keepdims=True) + _TINY)
        logits = _SCORERS[section.scorer](arrays, text, label)
        return np.asarray(logits * (1.0 if section.scale is None else section.scale), np.float32)

    def _project(self, name: str, values: Floats) -> Floats:
        inner = activate(self._section.activation, dense(self._arrays, f"{name}_in", values))
        return dense(self._arrays, f"{name}_out", inner)

    def _labels(self, hidden: Floats, ids: np.ndarray) -> Floats:
        """Vectors [labels, dimension]."""
        section = self._section
        at = np.flatnonzero(ids == section.label_token)
        if section.label_pooling == "first":
            return np.asarray(hidden[at + section.after_label_token])
        # A label ends where the next one begins. The last one ends at the text if only the text is pooled,
        # else it goes on to the end, as in the library.
        ends = [*at[1:], int(np.argmax(ids == section.text_token)) if section.text_only else len(ids)]
        spans = [hidden[start + section.after_label_token : end] for start, end in zip(at, ends, strict=True)]
        return np.stack([span.mean(axis=0) if len(span) else hidden[0] * 0 for span in spans])

    def _text(self, hidden: Floats, ids: np.ndarray) -> Floats:
        """Vectors [tokens, dimension] of what is pooled for the text.

        With ``text_only``, the text's vectors are moved to the front and zeros follow; pooling divides by the
        whole length, as in the library.
        """
        section = self._section
        start = int(np.argmax(ids == section.text_token)) if section.text_only else 0
        if section.lstm_layers:
            return lstm(self._arrays, "lstm", section.lstm_layers, hidden[start:])
        return np.concatenate([hidden[start:], np.zeros_like(hidden[:start])])


def gliclass_shapes(section: Gliclass, arrays: Arrays, dimension: int) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the arrays that the model needs.

    :param arrays: gives the sizes of inner layers, which the section doesn't have.
    """
    inner = arrays["text_in.bias"].shape[0] if arrays.get("text_in.bias") is not None else dimension
    shapes = {
        **dense_shapes("text_in", inner, dimension),
        **dense_shapes("text_out", dimension, inner),
        **dense_shapes("label_in", inner, dimension),
        **dense_shapes("label_out", dimension, inner),
        **lstm_shapes("lstm", section.lstm_layers, dimension),
    }
    if section.scorer == "weighted-dot":
        shapes |= dense_shapes("score_text", 2 * dimension, dimension)
        shapes |= dense_shapes("score_label", 2 * dimension, dimension)
        shapes |= dense_shapes("score_in", 4 * dimension, 3 * dimension)
        shapes |= dense_shapes("score_out", 1, 4 * dimension)
    elif section.scorer == "mlp":
        wide = arrays["score_0.bias"].shape[0] if arrays.get("score_0.bias") is not None else dimension
        shapes |= dense_shapes("score_0", wide, 2 * dimension)
        shapes |= dense_shapes("score_1", wide // 2, wide)
        shapes |= dense_shapes("score_2", 1, wide // 2)
    return shapes


def _pool(how: str, values: Floats) -> Floats:
    """Pools vectors [tokens, dimension] into one [dimension]; see ``poolings.py`` of the library."""
    return np.asarray(_POOLINGS[how](values), np.float32)


_POOLINGS: Final[Mapping[str, Callable[[Floats], Any]]] = {
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "avg": lambda values: values.mean(axis=0),
    "sum": lambda values: values.sum(axis=0),
    "max": lambda values: values.max(axis=0),
    "rms": lambda values: np.sqrt((values * values).mean(axis=0)),
    "abs_max": lambda values: np.abs(values).max(axis=0),
    "abs_avg": lambda values: np.abs(values).mean(axis=0),
}


def _dot(arrays: Arrays, text: Floats, labels: Floats) -> Floats:
    return np.asarray(labels @ text)


def _weighted_dot(arrays: Arrays, text: Floats, labels: Floats) -> Floats:
    half = text.shape[-1]
    of_text = dense(arrays, "score_text", text)
    of_labels = dense(arrays, "score_label", labels)
    both = of_text[half:] * of_labels[:, half:]
    rows = np.concatenate([np.broadcast_to(of_text[:half], both.shape), of_labels[:, :half], both], axis=1)
    return dense(arrays, "score_out", relu(dense(arrays, "score_in", rows)))[:, 0]


def _mlp(arrays: Arrays, text: Floats, labels: Floats) -> Floats:
    rows = np.concatenate([np.broadcast_to(text, labels.shape), labels], axis=1)
    inner = relu(dense(arrays, "score_1", relu(dense(arrays, "score_0", rows))))
    return dense(arrays, "score_2", inner)[:, 0]


_SCORERS = {"dot": _dot, "weighted-dot": _weighted_dot, "mlp": _mlp}
