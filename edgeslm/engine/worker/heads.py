"""Trained heads on an encoder: labels from a text's vector, and field spans from token vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeslm.bundle.learned_task import LearnedField, LearnedSection
from edgeslm.bundle.manifest import Bundle, HeadSection, load_bundle, verify_bundle
from edgeslm.bundle.spans import Place, Run
from edgeslm.engine.calls import Pointed
from edgeslm.engine.worker.layers import activate, check_arrays, layer_norm, read_arrays, softmax
from edgeslm.errors import BundleError

Floats = npt.NDArray[np.float32]

STARTS, ENDS, INSIDE = range(3)
"""Indices, in the order of ``place_weight``, of a token's three scores: for being the first, the last or an
inner token of a span."""
_MOST_PLACES: Final = 16
"""Largest number of spans returned for each field; there are several, since the most likely one may not fit
the field's schema."""
_MOST_TOKENS: Final = 256
"""Maximum length of a span in tokens, which is also the maximum length of a training text."""
_MOST_ANSWER: Final = 64
"""Maximum length, in tokens, of an answer span of a reader; answers in the training data are rarely
longer."""
_MOST_ODDS: Final = 50.0
"""Log-odds are clipped to plus or minus this value, so that the exponential doesn't overflow; the probability
is then practically 0 or 1."""
_LEAST_SHARE: Final = 1e-4
"""Spans of a field are searched only if the option "a span of the message" has at least this probability."""


@dataclass(frozen=True, slots=True)
class HiddenLayers:
    """Layers of a classification head between the pooled vector and the last layer: a dense layer with an
    activation, then a normalization. Each is optional.

    :param arrays: ``dense`` [dimension, dimension] and ``dense_bias`` [dimension]; ``norm`` and ``norm_bias``
        [dimension].
    :param activation: see ``layers.activate``.
    """

    arrays: Mapping[str, Floats]
    activation: str = "tanh"

    def __call__(self, vectors: Floats) -> Floats:
        """Vectors [..., dimension] -> the same shape."""
        arrays = self.arrays
        if "dense" in arrays:
            vectors = activate(self.activation, vectors @ arrays["dense"].T + arrays["dense_bias"])
        if "norm" in arrays:
            parts = {"norm.weight": arrays["norm"]}
            if "norm_bias" in arrays:
                parts["norm.bias"] = arrays["norm_bias"]
            vectors = layer_norm(parts, "norm", vectors)
        return vectors


class _WithCentroids:
    """Base class of ``Head`` and ``Pointer``, which computes the distance of a text from the training
    data."""

    def __init__(self, centroids: Floats | None) -> None:
        self._centroids = centroids

    def distance(self, vector: Floats) -> float | None:
        """Cosine distance of a text's vector from the nearest centroid of the training data; None if the head
        has no centroids."""
        if self._centroids is None:
            return None
        length = max(float(np.linalg.norm(vector)), 1e-12)
        return 1 - float((self._centroids @ vector).max()) / length


class Head(_WithCentroids):
    """Multinomial logistic regression, after the layers ``hidden`` of a published classifier;
    ``bundle.calibration`` calibrates its probabilities."""

    def __init__(
        self,
        weight: Floats,
        bias: Floats,
        centroids: Floats | None = None,
        hidden: HiddenLayers | None = None,
    ) -> None:
        super().__init__(centroids)
        self._weight = weight
        self._bias = bias
        self._hidden = hidden or HiddenLayers({})

    def probabilities(self, vectors: Floats) -> Floats:
        """Label probabilities [n, labels] of vectors [n, dimension]; each row sums to 1."""
        return softmax(self._hidden(vectors) @ self._weight.T + self._bias)


class Pointer(_WithCentroids):
    """Head for field extraction, which scores the options of each field and, by their first, last and inner
    tokens, the spans of the text.

    The score of a span is the sum of the start score of its first token, the end score of its last token
    (Devlin et al., 2019, section 4.2) and the inside scores of all its tokens. Without inside scores, a value
    that occurs twice would give one span from the first occurrence to the second.

    :param weight: weights of the options, as an array [options of all fields, dimension]; ``bias`` has their
        biases.
    :param place_weight: weights of the span scores, as an array [fields, 3, dimension]; ``place_bias``
        [fields, 3] has their biases.
    """

    def __init__(
        self,
        fields: Sequence[LearnedField],
        weight: Floats,
        bias: Floats,
        place_weight: Floats,
        place_bias: Floats,
        centroids: Floats | None = None,
    ) -> None:
        super().__init__(centroids)
        self._fields = fields
        self._ends = np.cumsum([field.options for field in fields]).tolist()
        self._weight, self._bias = weight, bias
        self._place_weight, self._place_bias = place_weight, place_bias

    def point(self, hidden: Floats, vector: Floats, offsets: Sequence[Place]) -> tuple[Pointed, ...]:
        """Finds the options and spans of all fields.

        :param hidden: vectors [tokens, dimension] of the tokens.
        :param vector: vector [dimension] of the whole text.
        :param offsets: character span of each token; empty for special tokens.
        """
        logits = self._weight @ vector + self._bias
        tokens = [place for place, (start, end) in enumerate(offsets) if start < end]
        standing = [offsets[token] for token in tokens]
        found, begin = [], 0
        for number, (field, end) in enumerate(zip(self._fields, self._ends, strict=True)):
            options = softmax(logits[begin:end])
            places: tuple[Run, ...] = ()
            of_places = [at for at in (field.place_option, field.negated_option) if at is not None]
            if tokens and any(options[at] >= _LEAST_SHARE for at in of_places):
                scores = hidden[tokens] @ self._place_weight[number].T + self._place_bias[number]
                places = likeliest_places(scores, standing, field.longest)
            found.append(Pointed(tuple(map(float, options)), places))
            begin = end
        return tuple(found)


def likeliest_places(scores: Floats, offsets: Sequence[Place], longest: int) -> tuple[Run, ...]:
    """Returns the most likely spans, best first, each with its character offsets and its probability; the
    probabilities of all possible spans sum to 1.

    :param scores: scores [tokens, 3] in the order of ``STARTS``, ``ENDS`` and ``INSIDE``.
    :param longest: maximum length of a span in characters.
    """
    count = len(scores)
    starts, ends = np.array(offsets, np.int64).T
    # Each token has at least one character, so ``longest`` bounds the tokens, too: [first, tokens - 1].
    lasts = np.arange(count)[:, None] + np.arange(min(count, longest, _MOST_TOKENS))[None, :]
    firsts, spread = np.nonzero(lasts < count)
    lasts = lasts[firsts, spread]
    lengths = ends[lasts] - starts[firsts]
    fitting = (lengths > 0) & (lengths <= longest)
    firsts, lasts = firsts[fitting], lasts[fitting]
    if not len(firsts):
        return ()
    sums = np.concatenate([[0.0], np.cumsum(scores[:, INSIDE], dtype=np.float64)])
    begins, stops = _log_softmax(scores[:, STARTS]), _log_softmax(scores[:, ENDS])
    values = begins[firsts] + stops[lasts] + sums[lasts + 1] - sums[firsts]
    shares = np.exp(values - values.max())
    total = shares.sum()
    found = []
    for at in np.argsort(-values, kind="stable")[:_MOST_PLACES]:
        found.append((int(starts[firsts[at]]), int(ends[lasts[at]]), float(shares[at] / total)))
    return tuple(found)


class Reader:
    """Reader (cross-encoder head), which finds whether a text answers a question and, if trained for spans,
    which part of it does.

    :param weight: weights of a logistic regression, as an array [1, dimension]; ``bias`` [1] is its bias.
    :param hidden: layers before the regression.
    :param place_weight: weights of the scores for the first and the last token of a span, as an array [2,
        dimension]; ``place_bias`` [2] has their biases.
    """

    def __init__(
        self,
        weight: Floats,
        bias: Floats,
        hidden: HiddenLayers | None = None,
        place_weight: Floats | None = None,
        place_bias: Floats | None = None,
    ) -> None:
        self._weight, self._bias = weight, bias
        self._hidden = hidden or HiddenLayers({})
        self._places = None if place_weight is None or place_bias is None else (place_weight, place_bias)

    def probability(self, vector: Floats) -> float:
        """Probability that the text answers the question; ``vector`` [dimension] is the embedding of both as
        a pair."""
        odds = float(self._weight[0] @ self._hidden(vector) + self._bias[0])
        return float(1 / (1 + np.exp(-min(_MOST_ODDS, max(-_MOST_ODDS, odds)))))

    def places(self, hidden: Floats, offsets: Sequence[Place]) -> tuple[Run, ...]:
        """Returns the answer spans, best first. Each start token gives one span, which ends at the most
        likely end token for this start; the span's probability is the sum of the probabilities of all spans
        that begin with this token. A reader that isn't trained for spans gives no answer spans. The
        probabilities of the spans sum to less than 1; the rest is the probability of no answer, which the
        first token represents (Devlin et al., 2019, section 4.3).

        :param hidden: vectors [tokens, dimension] of the tokens.
        :param offsets: character span of each token; empty for the question and special tokens.
        """
        tokens = [token for token, (start, end) in enumerate(offsets) if start < end]
        if self._places is None or not tokens:
            return ()
        weight, bias = self._places
        scores = (hidden @ weight.T + bias).astype(np.float64)
        count = len(tokens)
        lasts = np.arange(count)[:, None] + np.arange(min(count, _MOST_ANSWER))[None, :]
        values = scores[tokens, STARTS][:, None] + scores[tokens, ENDS][np.minimum(lasts, count - 1)]
        values[lasts >= count] = -np.inf
        nowhere = scores[0, STARTS] + scores[0, ENDS]
        highest = max(values.max(), nowhere)
        shares = np.exp(values - highest).sum(axis=1)
        shares /= shares.sum() + np.exp(nowhere - highest)
        ends = lasts[np.arange(count), values.argmax(axis=1)]
        return tuple(
            (offsets[tokens[at]][0], offsets[tokens[ends[at]]][1], float(shares[at]))
            for at in np.argsort(-shares, kind="stable")[:_MOST_PLACES]
        )


def load_head(path: Path, encoder: Bundle, digest: str | None = None) -> Head:
    """:raises BundleError: the bundle isn't a head, is damaged, was trained on another encoder, or has
    another digest."""
    section, learned, file, arrays = _load(path, encoder, digest)
    dimension = _dimension(encoder)
    shapes = {"weight": (len(learned.labels), dimension), "bias": (len(learned.labels),)}
    hidden, more = _hidden(section, arrays, dimension)
    _check(file, arrays, {**shapes, **more})
    return Head(arrays["weight"], arrays["bias"], arrays.get("centroids"), hidden)


def load_pointer(path: Path, encoder: Bundle, digest: str | None = None) -> Pointer:
    """:raises BundleError: see ``load_head``."""
    _, learned, file, arrays = _load(path, encoder, digest)
    dimension = _dimension(encoder)
    options, count = sum(field.options for field in learned.fields), len(learned.fields)
    shapes = {
        "weight": (options, dimension),
        "bias": (options,),
        "place_weight": (count, 3, dimension),
        "place_bias": (count, 3),
    }
    _check(file, arrays, shapes)
    named = {name: arrays[name] for name in shapes}
    return Pointer(learned.fields, **named, centroids=arrays.get("centroids"))


def load_reader(bundle: Bundle) -> Reader:
    """:param bundle: a reader bundle. :raises BundleError: its head is damaged."""
    section = bundle.manifest.head
    if section is None:
        raise BundleError(f"{bundle.path}: has no head, so it is not a reader")
    file = bundle.path / section.weights
    arrays, dimension = read_arrays(file), _dimension(bundle)
    shapes: dict[str, tuple[int, ...]] = {"weight": (1, dimension), "bias": (1,)}
    hidden, more = _hidden(section, arrays, dimension)
    if "place_weight" in arrays:
        shapes |= {"place_weight": (2, dimension), "place_bias": (2,)}
    _check(file, arrays, {**shapes, **more})
    return Reader(**{name: arrays[name] for name in shapes}, hidden=hidden)


def _hidden(
    section: HeadSection, arrays: Mapping[str, Floats], dimension: int
) -> tuple[HiddenLayers, dict[str, tuple[int, ...]]]:
    """The layers before a head's last layer, and the shapes of their arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    if "dense" in arrays:
        shapes |= {"dense": (dimension, dimension), "dense_bias": (dimension,)}
    shapes |= {name: (dimension,) for name in ("norm", "norm_bias") if name in arrays}
    return HiddenLayers(arrays, section.activation or "tanh"), shapes


def _load(
    path: Path, encoder: Bundle, digest: str | None
) -> tuple[HeadSection, LearnedSection, Path, Mapping[str, Floats]]:
    bundle = load_bundle(path, digest)
    section, learned = bundle.manifest.head, bundle.manifest.learned
    if section is None or learned is None:
        raise BundleError(f"{path}: a bundle of kind {bundle.manifest.kind}, where a learned head is needed")
    if (needed := section.encoder or bundle.digest) != encoder.digest:
        raise BundleError(f"{path}: learned on the encoder {needed}, but this is {encoder.digest}")
    verify_bundle(bundle)
    file = path / section.weights
    return section, learned, file, read_arrays(file)


def _check(file: Path, arrays: Mapping[str, Floats], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """:raises BundleError: an array has the wrong shape, or a number isn't finite."""
    check_arrays(file, arrays, shapes)
    centroids, dimension = arrays.get("centroids"), shapes["weight"][-1]
    if centroids is not None and (centroids.ndim != 2 or centroids.shape[1] != dimension):
        raise BundleError(f"{file}: centroids have shape {centroids.shape}, [groups, {dimension}] is needed")


def _dimension(encoder: Bundle) -> int:
    return encoder.manifest.encoder.dimension if encoder.manifest.encoder else 0


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
