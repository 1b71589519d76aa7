"""Choice of messages to label: which texts teach a head the most (active learning).

The first texts are the most typical of different groups (k-means on the encoder's vectors). Later ones are
those that a head, trained on the labels so far, is least sure of (margin sampling; Scheffer et al.,
2001), and that are not alike.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zipfile import BadZipFile

from edgeslm_export.evaluate.report_card import embed_texts, load_encoder
from edgeslm_export.jobs.checkpoint_notes import FORGOTTEN_S
from edgeslm_export.jobs.optimum_env import cache_folder
from edgeslm_export.train.label_noise import shares_by_words
from edgeslm_export.train.logistic_head import fit_layer, split_folds

from edgeslm.bundle.calibration import LEAST_PROBABILITY
from edgeslm.bundle.manifest import load_bundle

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]

FEWEST: Final = 10
"""Number of labelled texts from which on a head chooses."""
ALIKE: Final = 0.9
"""Cosine from which on two texts of one choice count as alike."""
STRENGTH: Final = 10.0
FEWEST_DOUBTED: Final = 50
"""Number of labelled texts from which on labels are doubted; with fewer, right ones would be."""
MOST_DOUBTED: Final = 10
MOST_VECTORS: Final = 50_000
"""Maximum number of vectors in the cache, about 80 MB."""
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """A text to label, by its index; ``guess`` and its ``confidence`` are those of the head so far."""

    index: int
    guess: str | None = None
    confidence: float | None = None


def vectors_of(texts: Sequence[str], encoder: Path) -> npt.NDArray[np.float32]:
    """Unit vectors of the texts. Those of texts that were embedded before are from the cache."""
    import numpy as np

    digest = load_bundle(encoder).digest
    file = cache_folder() / f"vectors-{hashlib.sha256(digest.encode()).hexdigest()[:16]}.npz"
    known = _load(file)
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32] for text in texts]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if new:
        found = embed_texts(load_encoder(encoder), list(new.values()))
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
        known = {**known, **dict(zip(new, found, strict=True))}
        _save(file, known)
    return np.array([known[key] for key in keys], np.float32)


def _load(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    import numpy as np

    try:
        with np.load(file) as found:
            return dict(zip(found["keys"].tolist(), found["vectors"], strict=True))
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return {}


def _save(file: Path, vectors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Writes the newest vectors to the cache in one step, and removes files that weren't used for long."""
    import numpy as np

    file.parent.mkdir(parents=True, exist_ok=True)
    for other in file.parent.glob("vectors-*.np?"):
        if time.time() - other.stat().st_mtime > FORGOTTEN_S:
            other.unlink(missing_ok=True)
    kept = dict(list(vectors.items())[-MOST_VECTORS:])
    draft = file.with_suffix(f".{os.getpid()}.tmp")
    with draft.open("wb") as stream:
        np.savez(stream, keys=np.array(list(kept)), vectors=np.array(list(kept.values()), np.float32))
    draft.replace(file)


def choose(vectors: npt.NDArray[np.float32], labelled: Mapping[int, str], count: int) -> list[Chosen]:
    """The texts to label next, most useful first.

    :param vectors: [texts, dimension], unit vectors. :param labelled: label by index of the text.
    """
    counts = Counter(labelled.values())
    if len(labelled) < FEWEST or len(counts) < 2:
        return [Chosen(index) for index in _typical(vectors, labelled, count)]
    return _uncertain(vectors, labelled, count)


def _typical(vectors: npt.NDArray[np.float32], labelled: Mapping[int, str], count: int) -> list[int]:
    """The text nearest to the middle of each group; larger groups first, groups with a label last."""
    import numpy as np
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    groups = min(len(vectors), count + len(labelled))
    with threadpool_limits(1):
        means = KMeans(groups, n_init=1, random_state=_SEED).fit(vectors)
    sizes = np.bincount(means.labels_, minlength=groups)
    known = {int(means.labels_[index]) for index in labelled}
    order = sorted(range(groups), key=lambda group: (group in known, -sizes[group]))
    near = vectors @ means.cluster_centers_.T
    found: list[int] = []
    for group in order:
        ranked = np.argsort(-near[:, group])
        index = next((int(one) for one in ranked if one not in labelled and int(one) not in found), None)
        if index is not None:
            found.append(index)
    return found[:count]


def _uncertain(vectors: npt.NDArray[np.float32], labelled: Mapping[int, str], count: int) -> list[Chosen]:
    import numpy as np
    from edgeslm_export.evaluate.metrics import softmax

    names = sorted(set(labelled.values()))
    rows = np.array(list(labelled), np.int64)
    truth = np.array([names.index(label) for label in labelled.values()], np.int64)
    weight, bias = fit_layer(vectors[rows], truth, STRENGTH, len(names))
    shares = softmax(vectors @ weight.T + bias)
    best = np.sort(shares, axis=1)
    found: list[Chosen] = []
    later: list[Chosen] = []
    for index in map(int, np.argsort(best[:, -1] - best[:, -2])):
        if index in labelled:
            continue
        one = Chosen(index, names[int(shares[index].argmax())], round(float(shares[index].max()), 4))
        is_alike = any(float(vectors[index] @ vectors[other.index]) > ALIKE for other in found)
        (later if is_alike else found).append(one)
        if len(found) == count:
            break
    return [*found, *later][:count]


def accuracy(
    vectors: npt.NDArray[np.float32], texts: Sequence[str], labelled: Mapping[int, str]
) -> dict[str, Any] | None:
    """Accuracy of a head on the labelled texts, by cross-validation; None if fewer than two labels have two
    texts.

    The texts were chosen since they are hard, so the accuracy on other texts is usually higher.

    :return: the ``share`` of right answers with its 95 % ``interval``; ``confusion`` with the ``labels`` and
        ``counts`` [label][predicted label]; ``doubted``, the texts whose label is probably wrong.
    """
    import numpy as np
    from edgeslm_export.evaluate.metrics import share, softmax

    counts = Counter(labelled.values())
    names = sorted(label for label, number in counts.items() if number > 1)
    rows = [index for index, label in labelled.items() if label in names]
    if len(names) < 2:
        return None
    truth = np.array([names.index(labelled[index]) for index in rows], np.int64)
    own, own_texts = vectors[rows], [texts[index] for index in rows]
    folds = split_folds(truth, len(names), own_texts)
    if not folds:
        return None
    shares = []
    for train, test in folds:
        weight, bias = fit_layer(own[train], truth[train], STRENGTH, len(names))
        shares.append(softmax(own[test] @ weight.T + bias))
    held, by_meaning = np.concatenate([test for _, test in folds]), np.concatenate(shares)
    guess = by_meaning.argmax(axis=1)
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (truth[held], guess), 1)
    doubted: list[dict[str, Any]] = []
    if len(rows) >= FEWEST_DOUBTED:
        both = np.log(np.maximum(by_meaning, LEAST_PROBABILITY)) + np.log(
            shares_by_words(own_texts, truth, folds)
        )
        doubted = [
            {"text": own_texts[held[place]], "label": names[truth[held[place]]], "guess": names[other]}
            for place, other in _doubted(softmax(both / 2), truth[held])
        ]
    return {
        **share(guess == truth[held]),
        "confusion": {"labels": names, "counts": confusion.tolist()},
        "doubted": doubted,
    }


def _doubted(shares: npt.NDArray[np.floating[Any]], truth: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Rows whose label is probably wrong, the most doubtful first, each with the more probable label.

    Confident learning (Northcutt et al., 2021): the other label is the most probable one, and at least as
    probable as it is on average for the rows that have it.

    :param shares: [rows, labels], held-out probabilities. :param truth: [rows].
    """
    import numpy as np

    usual = np.array([shares[truth == label, label].mean() for label in range(shares.shape[1])])
    best = shares.argmax(axis=1)
    places = np.flatnonzero((best != truth) & (shares[np.arange(len(truth)), best] >= usual[best]))
    order = places[np.argsort(shares[places, truth[places]])]
    return [(int(place), int(best[place])) for place in order[:MOST_DOUBTED]]
