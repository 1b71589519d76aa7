"""Golden answers: how far others lie from them, what is read of a bundle, and what the real model says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeslm.bundle.manifest import Bundle, load_bundle
from edgeslm.engine.prepack.golden import (
    FILE,
    MOST_APART,
    Golden,
    GoldenAnswer,
    divergences,
    load_golden,
    record,
)
from edgeslm.errors import BundleError
from tests.support.engine.golden_bundles import PROMPTS
from tests.support.nodes import write_bundle


def logs(*shares: float) -> tuple[float, ...]:
    return tuple(map(math.log, shares))


def answer(*shares: float) -> GoldenAnswer:
    return GoldenAnswer(ids=(1, 2), tokens=tuple(range(len(shares))), log_probs=logs(*shares))


SHARES = st.lists(st.floats(0.001, 1.0), min_size=3, max_size=9)


def normal(shares: Sequence[float]) -> list[float]:
    return [share / sum(shares) for share in shares]


@given(SHARES.flatmap(lambda one: st.tuples(st.just(one), st.permutations(one))))
def test_the_same_is_nothing_apart_and_others_are_something(both: tuple[list[float], list[float]]) -> None:
    one, other = (normal(shares)[:-1] for shares in both)
    assert answer(*one).divergence(logs(*one)) == pytest.approx(0, abs=1e-9)
    assert answer(*one).divergence(logs(*other)) > -1e-9


def test_tokens_that_were_not_kept_count_together() -> None:
    apart = answer(0.5).divergence(logs(0.25))
    assert apart == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
    assert answer(1.0).divergence(logs(0.5)) == pytest.approx(math.log(2), abs=1e-6)


def test_what_is_no_number_is_not_near() -> None:
    assert not answer(0.5).divergence([math.nan]) <= MOST_APART
    assert not answer(0.5).divergence([-math.inf]) <= MOST_APART


def test_a_log_probability_for_each_token_is_needed() -> None:
    with pytest.raises(ValidationError):
        GoldenAnswer(ids=(1, 2), tokens=(1, 2), log_probs=(-0.1,))


# --- in a bundle -------------------------------------------------------------------------------------


def write_golden(folder: Path, content: bytes) -> Bundle:
    """A bundle that lists the file; digests are no matter of this module."""
    bundle = load_bundle(write_bundle(folder))
    entry = bundle.manifest.files[0].model_copy(update={"path": FILE})
    (folder / FILE).write_bytes(content)
    manifest = bundle.manifest.model_copy(update={"files": (*bundle.manifest.files, entry)})
    return Bundle(folder, manifest, bundle.digest)


def test_what_is_kept_is_what_is_read(tmp_path: Path) -> None:
    golden = Golden(answers=(answer(0.5, 0.25), answer(0.1)))
    assert load_golden(write_golden(tmp_path, golden.model_dump_json().encode())) == golden


def test_a_bundle_without_has_none_whatever_lies_there(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    (tmp_path / FILE).write_text("nobody knows what")
    assert load_golden(bundle) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2}', b'{"answers": []}', b"\xff"])
def test_what_can_not_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden\.json: not golden answers"):
        load_golden(write_golden(tmp_path, content))


@given(st.binary(max_size=60))
def test_any_bytes_are_answers_or_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleError, match=r"golden\.json"):
        load_golden(write_golden(tmp_path, content))


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    bundle = write_golden(tmp_path, b"")
    (tmp_path / FILE).unlink()
    with pytest.raises(BundleError, match=r"golden\.json: No such file"):
        load_golden(bundle)


# --- the real model ----------------------------------------------------------------------------------


def test_a_model_says_again_what_it_said(model: Any) -> None:
    golden = record(model, PROMPTS)
    assert [one.ids for one in golden.answers] == list(PROMPTS)
    for one in golden.answers:
        assert sorted(one.log_probs, reverse=True) == list(one.log_probs)
        assert 0.1 < sum(map(math.exp, one.log_probs)) <= 1.001
    assert all(abs(apart) < 0.001 for apart in divergences(model, golden))


def test_another_prompt_is_far_from_it(model: Any) -> None:
    first, second = record(model, PROMPTS).answers
    swapped = Golden(answers=(first.model_copy(update={"ids": second.ids}),))
    assert next(divergences(model, swapped)) > MOST_APART
