"""GLiNER (Zaratiana et al., 2024): labels and text in one pass of the encoder, and a score for each span of
words and each label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeslm.bundle.spans import Place, Run
from edgeslm.bundle.zero_shot import Gliner
from edgeslm.engine.calls import Overflow
from edgeslm.engine.worker.layers import (
    Arrays,
    Floats,
    dense,
    dense_shapes,
    lstm,
    lstm_shapes,
    relu,
    sigmoid,
)
from edgeslm.engine.worker.overflow import fit
from edgeslm.engine.worker.zero_shot_model import (
    PROBE_LABELS,
    PROBE_TEXT,
    Found,
    TokenEncoder,
    ZeroShotModel,
    check_labels,
)
from edgeslm.errors import TooLong
from edgeslm.messages import Truncated

_WORD: Final = re.compile(r"\w+(?:[-_]\w+)*|\S")
"""Pattern of a word, as in ``WhitespaceTokenSplitter`` of the library."""
_MOST_SPANS: Final = 20_000
"""Maximum number of spans, of all labels together, that are compared with each other: the likeliest ones. A
text of 2,048 words has up to 20 million."""


Spans = tuple[npt.NDArray[np.int64], Floats]
"""Spans of all labels: first word, width and label of each [spans, 3], and the probabilities [spans]."""


class GlinerModel(ZeroShotModel):
    """Computes what ``UniEncoderSpanModel.forward`` and ``SpanDecoder`` of the library do."""

    def __init__(self, section: Gliner, encoder: TokenEncoder, arrays: Arrays) -> None:
        super().__init__(encoder, arrays)
        self._section = section

    def probe(self) -> None:
        self.find(PROBE_TEXT, PROBE_LABELS, "error", None)

    def find(self, text: str, labels: Sequence[str], overflow: Overflow, least: float | None) -> Found:
        check_labels(labels)
        section, encoder = self._section, self._encoder
        prompt: list[int] = []
        for label in labels:
            prompt += [section.label_token, *encoder.bare(label)]
        prompt.append(section.text_token)
        used = len(encoder.lead) + len(prompt) + len(encoder.tail)
        ids, of_words, places, truncated = self._words(text, self.room(used, labels), overflow)
        if not ids:
            return Found(((),) * len(labels), (0.0,) * len(labels), used, truncated)
        whole = [*encoder.lead, *prompt, *ids, *encoder.tail]
        hidden = encoder.forward(whole)
        start = len(encoder.lead) + len(prompt)
        words = _pool_words(section.word_pooling, hidden[start : start + len(ids)], of_words, len(places))
        at = np.flatnonzero(np.asarray(whole[:start]) == section.label_token) + section.after_label_token
        every = section.least if least is None else least
        spans, best = self._likeliest(words, hidden[at], every)
        runs = _flat_runs(spans, len(words))
        found = tuple(
            tuple((places[first][0], places[last][1], share) for first, last, share in runs.get(label, ()))
            for label in range(len(labels))
        )
        return Found(found, tuple(map(float, best)), len(whole), truncated)

    def _likeliest(self, words: Floats, labels: Floats, least: float) -> tuple[Spans, Floats]:
        """The spans above ``least``, at most ``_MOST_SPANS``, and for each label the highest probability."""
        best = np.zeros(len(labels), np.float32)
        found: list[tuple[npt.NDArray[np.int64], Floats]] = []
        for width, logits in enumerate(self.logits(words, labels)):
            shares = sigmoid(self.finite(logits))
            best = np.maximum(best, shares.max(axis=0))
            first, label = np.nonzero(shares > least)
            places = np.stack([first, np.full_like(first, width), label], axis=1)
            found = [_best_first([*found, (places, shares[first, label])])]
        return found[0], best

    def logits(self, words: Floats, labels: Floats) -> Iterator[Floats]:
        """Logits of word vectors [words, dimension] and label vectors [labels, dimension]: for each width an
        array [spans, labels] of the spans that end ``width`` words after their first one, in the order of the
        first words.

        The last layer of the spans is multiplied with the labels first, so that a span takes one addition
        and a product with few rows; the library computes a vector for each span.
        """
        section, arrays = self._section, self._arrays
        if "projection.weight" in arrays:
            words, labels = dense(arrays, "projection", words), dense(arrays, "projection", labels)
        if section.lstm_layers:
            words = lstm(arrays, "lstm", section.lstm_layers, words)
        labels = _two_layers(arrays, "label", labels)
        starts, ends = relu(_two_layers(arrays, "start", words)), relu(_two_layers(arrays, "end", words))
        inner = "span_in" if section.marker == "markerV0" else "span_out"
        weight, bias = arrays[f"{inner}.weight"], arrays[f"{inner}.bias"]
        half = weight.shape[1] // 2
        firsts, lasts = starts @ weight[:, :half].T + bias, ends @ weight[:, half:].T
        if section.marker == "markerV0":
            rows, fixed = labels @ arrays["span_out.weight"], labels @ arrays["span_out.bias"]
        else:
            rows, fixed = labels, np.zeros(len(labels), np.float32)
        count = len(words)
        for width in range(min(section.longest, count)):
            spans = firsts[: count - width] + lasts[width:]
            spans = relu(spans) if section.marker == "markerV0" else spans
            yield spans @ rows.T + fixed

    def _words(
        self, text: str, room: int, overflow: Overflow
    ) -> tuple[list[int], list[int], list[Place], Truncated | None]:
        """Splits the text into words, truncated to the model's limits.

        :return: the token ids; for each token the index of its word; the character offsets of the words; and
            the truncation.
        """
        words = [(match[0], match.span()) for match in _WORD.finditer(text)]
        if not words:
            return [], [], [], None
        most = self._section.most_words
        if len(words) > most and overflow == "error":
            raise TooLong(
                f"the input has {len(words)} words and there is room for {most}; "
                "send a shorter one, or set the task's overflow to head, tail or middle"
            )
        kept, cut = fit(list(range(len(words))), most, overflow)
        encoding = self._encoder.tokenizer.encode(
            [words[word][0] for word in kept], is_pretokenized=True, add_special_tokens=False
        )
        every = encoding.ids
        of_words = [-1 if word is None else word for word in encoding.word_ids]
        order, shorter = fit(list(range(len(every))), room, overflow)
        left = list(range(len(kept))) if shorter is None else sorted({of_words[at] for at in order})
        if cut is not None or shorter is not None:
            whole = len(every) * len(words) // len(kept)  # an estimate, if words were left out unread
            shorter = Truncated(kept=len(order), of=whole)
        renumbered = {word: number for number, word in enumerate(left)}
        return (
            [every[at] for at in order],
            [renumbered[of_words[at]] for at in order],
            [words[kept[word]][1] for word in left],
            shorter,
        )


def gliner_shapes(section: Gliner, arrays: Arrays, dimension: int) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the arrays that the model needs.

    :param dimension: the size of the encoder's token vectors; a projection may make them smaller.
    """
    size = arrays["projection.bias"].shape[0] if "projection.bias" in arrays else dimension
    shapes = dense_shapes("projection", size, dimension) if "projection.bias" in arrays else {}
    shapes |= lstm_shapes("lstm", section.lstm_layers, size)
    wide = {"start": 2 if section.marker == "marker" else 4, "label": 4}
    wide["end"] = wide["start"]
    for name, times in wide.items():
        shapes |= dense_shapes(f"{name}_in", times * size, size)
        shapes |= dense_shapes(f"{name}_out", size, times * size)
    if section.marker == "marker":
        return {**shapes, **dense_shapes("span_out", size, 2 * size)}
    return {
        **shapes,
        **dense_shapes("span_in", 4 * size, 2 * size),
        **dense_shapes("span_out", size, 4 * size),
    }


def _two_layers(arrays: Arrays, name: str, values: Floats) -> Floats:
    return dense(arrays, f"{name}_out", relu(dense(arrays, f"{name}_in", values)))


def _pool_words(how: str, hidden: Floats, of_words: Sequence[int], count: int) -> Floats:
    """Word vectors [count, dimension] of token vectors. ``of_words`` is the index of each token's word. A
    word without tokens has a vector of zeros."""
    found = np.zeros((count, hidden.shape[1]), np.float32)
    where = np.asarray(of_words)
    words, firsts, tokens = np.unique(where, return_index=True, return_counts=True)
    match how:
        case "first":
            found[words] = hidden[firsts]
        case "last":
            found[words] = hidden[firsts + tokens - 1]
        case "max":
            found[words] = np.maximum.reduceat(hidden, firsts)
        case _:
            found[words] = np.add.reduceat(hidden, firsts) / tokens[:, None]
    return found


def _best_first(parts: Sequence[Spans]) -> Spans:
    """The ``_MOST_SPANS`` likeliest spans, best first; equally likely ones in the order of their places."""
    places = np.concatenate([places for places, _ in parts])
    shares = np.concatenate([shares for _, shares in parts])
    order = np.lexsort((places[:, 2], places[:, 1], places[:, 0], -shares))[:_MOST_SPANS]
    return places[order], shares[order]


def _flat_runs(spans: Spans, count: int) -> dict[int, list[Run]]:
    """The spans by label without those that overlap a more likely one; each as first word, last word and
    probability. ``count`` is the number of words."""
    taken = np.zeros(count, bool)
    found: dict[int, list[Run]] = {}
    for (first, width, label), share in zip(spans[0].tolist(), spans[1].tolist(), strict=True):
        last = first + width
        if not taken[first : last + 1].any():
            taken[first : last + 1] = True
            found.setdefault(label, []).append((first, last, share))
    return found
