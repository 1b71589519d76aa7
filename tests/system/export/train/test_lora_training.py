"""Teaching LoRA matrices: what the loss counts, and the real child on a tiny decoder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from edgeslm_export.models.lora import CONFIG, WEIGHTS, load_lora
from edgeslm_export.sources.checkpoint import Origin, examine_local
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.lora_training import (
    AdapterShape,
    Base,
    TokenRow,
    answer_loss,
    check_installed,
    train_decoder,
)

from edgeslm.errors import ExportError
from tests.support.export.tiny_models import SHAPE, decoder

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]
YES, NO = 60, 61
SHORT = Schedule(epochs=6, batch=4, rate=5e-3)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(5)
    return decoder("llama", vocab_size=100, initializer_range=0.2)


def log_shares(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Of every token at every place, without padding."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([list(ids)])).logits[0], 1)


def told(model: Any, *rows: TokenRow) -> float:
    with torch.no_grad():
        return float(answer_loss(model, rows))


# --- the loss ----------------------------------------------------------------------------------------


def test_a_written_answer_is_told_token_by_token(model: Any) -> None:
    row = TokenRow([5, 6, 7], [8, 9])
    at = log_shares(model, [5, 6, 7, 8])
    assert told(model, row) == pytest.approx(-float(at[2, 8] + at[3, 9]) / 2, abs=1e-4)


def test_a_label_is_told_among_those_that_could_stand_there(model: Any) -> None:
    row = TokenRow([5, 6, 7], [YES], [([YES, NO], [1.0, 0.0])])
    at = log_shares(model, [5, 6, 7])[2]
    expected = -float(at[YES] - torch.logaddexp(at[YES], at[NO]))
    assert told(model, row) == pytest.approx(expected, abs=1e-4)


def test_labels_that_are_both_likely_are_wanted_both(model: Any) -> None:
    parts = [told(model, TokenRow([5, 6], [YES], [([YES, NO], share)])) for share in ([1.0, 0.0], [0.0, 1.0])]
    both = told(model, TokenRow([5, 6], [YES], [([YES, NO], [0.3, 0.7])]))
    assert both == pytest.approx(0.3 * parts[0] + 0.7 * parts[1], abs=1e-4)


def test_a_token_without_a_choice_costs_nothing(model: Any) -> None:
    row = TokenRow([5, 6], [9, YES], [([9], [1.0]), ([YES, NO], [1.0, 0.0])])
    at = log_shares(model, [5, 6, 9])[2]
    expected = -float(at[YES] - torch.logaddexp(at[YES], at[NO]))
    assert told(model, row) == pytest.approx(expected, abs=1e-4)


def test_rows_of_several_lengths_are_told_as_each_alone(model: Any) -> None:
    rows = [
        TokenRow([5, 6, 7, 8, 9, 10, 11], [YES], [([YES, NO], [1.0, 0.0])]),
        TokenRow([5], [9, 8, 7, 6]),
        TokenRow([12, 13, 14], [NO, 20], [([YES, NO], [0.4, 0.6]), ([20, 21], [1.0, 0.0])]),
    ]
    alone = [told(model, row) for row in rows]
    assert told(model, *rows) == pytest.approx(sum(alone) / 3, abs=1e-4)


# --- the child ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def origin(tiny: Path) -> Origin:
    return examine_local(tiny / "plain", "decoder")


ROWS = [
    TokenRow([1, 40 + number % 2, *range(70, 75 + number % 5)], [YES + number % 2], [([YES, NO], shares)])
    for number in range(24)
    for shares in [[1.0, 0.0] if number % 2 == 0 else [0.0, 1.0]]
]
"""The second token says which of two labels is right."""


def teach(origin: Origin, bundle: Path, out: Path, base: Base = "stored", **options: Any) -> dict[str, Any]:
    schedule = options.pop("schedule", SHORT)
    job = TrainingJob(origin.path, out, schedule, **options)
    return train_decoder(job, origin.architecture, bundle, ROWS, AdapterShape(4, base))


@pytest.fixture(scope="module")
def taught(
    origin: Origin, int4_base: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("lora") / "out"
    return out, teach(origin, int4_base, out)


def test_what_is_written_is_a_lora_of_the_products_of_attention(taught: tuple[Path, dict[str, Any]]) -> None:
    lora = load_lora(taught[0])
    products = {f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    assert {f"{block}.{matrix}" for _, block, matrix in lora.pairs} == products
    assert len(lora.pairs) == 4 * SHAPE["num_hidden_layers"]
    assert {(pair.rank, pair.scale) for pair in lora.pairs.values()} == {(4, 2.0)}
    assert all(pair.b.any() for pair in lora.pairs.values())


def test_what_was_said_of_the_training_comes_back(taught: tuple[Path, dict[str, Any]]) -> None:
    said = taught[1]
    assert said["epochs"] == said["best_epoch"] == SHORT.epochs
    assert 0 < said["loss"] < math.log(2)  # better than not knowing
    assert said["peak_rss"] > 1e8


def test_the_same_rows_make_the_same_matrices_over_an_interruption_too(
    origin: Origin, int4_base: Path, taught: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int, what: str) -> None:
        if done > total / 2:
            raise Interrupted

    state = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        teach(origin, int4_base, tmp_path / "first", state=state, on_progress=interrupt)
    assert state.is_file()
    assert not (tmp_path / "first").exists()
    seen: list[int] = []
    out = tmp_path / "second"
    teach(origin, int4_base, out, state=state, on_progress=lambda done, total, what: seen.append(done))
    assert min(seen[1:]) > SHORT.epochs  # the first epoch's six steps were not run again
    assert (out / WEIGHTS).read_bytes() == (taught[0] / WEIGHTS).read_bytes()


def test_rows_aside_say_when_to_stop(origin: Origin, int4_base: Path, tmp_path: Path) -> None:
    """They are told ever worse: their labels are those of the other rows turned round."""
    turned = [
        TokenRow([1, 40 + label, 70, 71], [YES], [([YES, NO], [float(label == 1), float(label == 0)])])
        for label in (0, 1)
    ]
    schedule = Schedule(epochs=10, batch=8, rate=5e-3)
    rows, aside = [*turned, *ROWS], [0, 1]
    job = TrainingJob(origin.path, tmp_path / "out", schedule, aside)
    said = train_decoder(job, origin.architecture, int4_base, rows, AdapterShape(4))
    assert (said["best_epoch"], said["epochs"]) == (1, 3)


def test_a_base_in_floats_is_taught_without_reading_the_bundle(origin: Origin, tmp_path: Path) -> None:
    said = teach(origin, tmp_path / "none", tmp_path / "out", "float", schedule=Schedule(1, 8, 1e-3))
    assert said["epochs"] == 1
    assert json.loads((tmp_path / "out" / CONFIG).read_text())["r"] == 4


# --- what has to be installed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "base", "sentence"),
    [
        ("peft", "stored", r"needs the package peft: pip install '\.\[teach\]' in a clone"),
        (
            "bitsandbytes",
            "nf4",
            r"needs the package bitsandbytes: pip install '\.\[qlora\]' in a clone",
        ),
    ],
)
def test_what_is_missing_is_named(
    missing: str, base: Base, sentence: str, packages_there: dict[str, bool]
) -> None:
    packages_there |= {"peft": True, "bitsandbytes": True, missing: False}
    with pytest.raises(ExportError, match=sentence):
        check_installed(base)


def test_four_bits_alone_need_the_library_for_them(packages_there: dict[str, bool]) -> None:
    packages_there |= {"peft": True, "bitsandbytes": False}
    check_installed("float")
    check_installed("stored")
