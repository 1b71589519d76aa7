"""Which texts are chosen to be labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from edgeslm_export.train import choice
from edgeslm_export.train.choice import accuracy, choose


def groups(counts: tuple[int, ...], spread: float = 0.05) -> npt.NDArray[np.float32]:
    """Unit vectors around the axes, so many of each group."""
    random = np.random.default_rng(0)
    rows = [
        np.eye(8)[group] + spread * random.normal(size=8) for group, n in enumerate(counts) for _ in range(n)
    ]
    found = np.array(rows, np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def test_the_first_texts_are_of_different_groups() -> None:
    vectors = groups((30, 20, 10))
    chosen = [one.index for one in choose(vectors, {}, 3)]
    assert [sum(index >= edge for edge in (30, 50)) for index in chosen] == [0, 1, 2]
    assert all(one.guess is None for one in choose(vectors, {}, 3))


def test_groups_with_a_label_come_last() -> None:
    vectors = groups((30, 20, 10))
    chosen = [one.index for one in choose(vectors, {0: "a", 31: "b"}, 1)]
    assert chosen[0] not in (0, 31)


def test_later_texts_are_those_between_the_labels() -> None:
    vectors = groups((20, 20))
    between = (vectors[0] + vectors[20]) / np.linalg.norm(vectors[0] + vectors[20])
    vectors = np.vstack([vectors, between[None]]).astype(np.float32)
    labelled = {**dict.fromkeys(range(6), "a"), **dict.fromkeys(range(20, 26), "b")}
    first = choose(vectors, labelled, 3)[0]
    assert first.index == 40 and first.guess in ("a", "b") and 0.4 < (first.confidence or 0) < 0.6


def test_texts_that_are_alike_arent_chosen_together_unless_there_are_no_others() -> None:
    vectors = groups((20, 20), spread=0.0)
    labelled = {**dict.fromkeys(range(6), "a"), **dict.fromkeys(range(20, 26), "b")}
    chosen = [one.index for one in choose(vectors, labelled, 4)]
    assert len(set(chosen)) == 4 and not set(chosen) & set(labelled)
    assert {index < 20 for index in chosen[:2]} == {True, False}


def test_all_texts_may_be_chosen() -> None:
    vectors = groups((3, 2))
    assert sorted(one.index for one in choose(vectors, {0: "a"}, 10)) == [1, 2, 3, 4]


def test_accuracy_is_by_cross_validation() -> None:
    vectors, texts = groups((6, 6)), [f"text {number}" for number in range(12)]
    assert accuracy(vectors, texts, {0: "a", 1: "b"}) is None
    labelled = {**dict.fromkeys(range(6), "a"), **dict.fromkeys(range(6, 12), "b")}
    found = accuracy(vectors, texts, labelled)
    assert found is not None and found["share"] == 1.0
    assert found["confusion"] == {"labels": ["a", "b"], "counts": [[6, 0], [0, 6]]} and found["doubted"] == []


def test_labels_that_are_probably_wrong_are_doubted_once_there_are_enough() -> None:
    texts = [f"{'spindle hot' if number < 40 else 'all is well'} {number}" for number in range(80)]
    vectors = groups((40, 40))
    labelled = {number: "ab"[number >= 40] for number in range(80)} | {7: "b"}
    found = accuracy(vectors, texts, labelled)
    assert found is not None
    assert found["doubted"] == [{"text": texts[7], "label": "b", "guess": "a"}]
    few = {number: label for number, label in labelled.items() if number % 2}
    fewer = accuracy(vectors, texts, few)
    assert fewer is not None and fewer["doubted"] == []


def test_vectors_of_known_texts_are_from_the_cache(
    fake_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked: list[list[str]] = []

    def embed(_: object, texts: list[str]) -> npt.NDArray[np.float32]:
        asked.append(list(texts))
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    monkeypatch.setattr(choice, "embed_texts", embed)
    monkeypatch.setattr(choice, "load_encoder", lambda bundle: None)
    first = choice.vectors_of(["a", "bb", "a"], fake_encoder)
    again = choice.vectors_of(["ccc", "bb"], fake_encoder)
    assert asked == [["a", "bb"], ["ccc"]]
    assert np.allclose(first[1], again[1]) and np.allclose(np.linalg.norm(again, axis=1), 1)
    (file,) = (tmp_path / "cache").rglob("vectors-*.npz")
    file.write_bytes(b"damaged")
    assert np.allclose(choice.vectors_of(["bb"], fake_encoder)[0], first[1])
