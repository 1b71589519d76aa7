"""An encoder taught to point at fields: what the loss counts, and the real child on a tiny encoder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from edgeslm_export.models.encoder import read_pooling
from edgeslm_export.sources.checkpoint import examine_local
from edgeslm_export.train.encoder_finetune import LAYER
from edgeslm_export.train.field_spec import Aim, aim_at, plan_fields
from edgeslm_export.train.job import TrainingJob
from edgeslm_export.train.loop import Schedule
from edgeslm_export.train.span_training import (
    ARRAYS,
    SpanHead,
    SpanRow,
    load_arrays,
    make_span_row,
    train_spans,
)

from edgeslm.bundle.spans import bare_offsets
from edgeslm.engine.worker.heads import Pointer
from edgeslm.errors import ExportError
from tests.support.export.tiny_tasks import FOUND, findings, make_field_spec

pytestmark = [pytest.mark.export, pytest.mark.usefixtures("one_thread")]

LESSON = make_field_spec(findings(120), FOUND, required=["state"])
FIELDS = plan_fields(LESSON)
OPTIONS = [field.options for field in FIELDS]
AIMS = [
    [aim_at(field, FOUND[field.name], text, of_row.get(field.name)) for field in FIELDS]
    for text, of_row in zip(LESSON.texts, LESSON.fields, strict=True)
]
SHORT = Schedule(epochs=12, batch=8, rate=3e-3)
WORDS = Schedule(epochs=2, batch=2, rate=1e-3)
TEXT = "the pump is hot pump"


def teach(source: Path, out: Path, schedule: Schedule = SHORT, **options: Any) -> dict[str, Any]:
    """``LESSON``."""
    section, _ = read_pooling(source)
    job = TrainingJob(source, out, schedule, **options)
    return train_spans(job, section, 64, LESSON.texts, OPTIONS, AIMS)


def teach_place(source: Path, out: Path, aims: Sequence[Aim]) -> dict[str, Any]:
    """``TEXT`` again and again, with a field that always stands there."""
    section, _ = read_pooling(source)
    texts = [TEXT] * len(aims)
    return train_spans(TrainingJob(source, out, WORDS), section, 64, texts, [1], [[aim] for aim in aims])


@pytest.fixture(scope="module")
def taught(
    encoders: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("pointer") / "out"
    return out, teach(encoders / "bge", out)


# --- the child ---------------------------------------------------------------------------------------


def answers(checkpoint: Path, texts: Sequence[str]) -> list[dict[str, str | None]]:
    """What a device would find with the float encoder: the likeliest option, and the likeliest place."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    pointer = Pointer(FIELDS, **load_arrays(checkpoint))
    found = []
    for text in texts:
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        offsets = list(bare_offsets(text, encoded.pop("offset_mapping")[0].tolist()))
        with torch.no_grad():
            hidden = model(**encoded).last_hidden_state[0].numpy()
        vector = hidden[0] / np.linalg.norm(hidden[0])  # how ``bge`` is pooled
        machine, state = pointer.point(hidden, vector, offsets)
        start, end, _ = machine.places[0] if machine.places else (0, 0, 0.0)
        is_there = machine.options.index(max(machine.options)) == 1
        chosen = FIELDS[1].values[state.options.index(max(state.options))]
        found.append({"machine": text[start:end] if is_there else None, "state": str(chosen)})
    return found


def test_fields_are_found_in_texts_that_were_not_learned_from(taught: tuple[Path, dict[str, Any]]) -> None:
    rows = findings(60, seed=9)
    found = answers(taught[0], [text for text, _ in rows])
    for name in FOUND:
        right = [answer[name] == of_row.get(name) for answer, (_, of_row) in zip(found, rows, strict=True)]
        assert np.mean(right) > 0.8, name


def test_what_is_said_of_the_training_comes_back(
    taught: tuple[Path, dict[str, Any]], encoders: Path, tmp_path: Path
) -> None:
    said = taught[1]
    assert said["epochs"] == said["best_epoch"] == SHORT.epochs
    before = teach(encoders / "bge", tmp_path / "out", Schedule(epochs=1, batch=8, rate=1e-5))
    assert 0 < said["loss"] < before["loss"] / 2


def test_what_is_written_is_a_checkpoint_with_layers_for_options_and_places(
    taught: tuple[Path, dict[str, Any]],
) -> None:
    assert examine_local(taught[0], "encoder").architecture == "BertModel"
    arrays = load_arrays(taught[0])
    assert tuple(arrays) == ARRAYS
    assert {values.dtype for values in arrays.values()} == {np.dtype(np.float32)}
    assert [arrays[name].shape for name in ARRAYS] == [(4, 32), (4,), (2, 3, 32), (2, 3)]


def test_the_same_rows_teach_the_same_over_an_interruption_too(
    encoders: Path, taught: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int, what: str) -> None:
        if done > total / 2:
            raise Interrupted

    state, bge = tmp_path / "state.pt", encoders / "bge"
    with pytest.raises(Interrupted):
        teach(bge, tmp_path / "first", state=state, on_progress=interrupt)
    assert state.is_file()
    assert not (tmp_path / "first").exists()
    seen: list[int] = []
    out = tmp_path / "second"
    teach(bge, out, state=state, on_progress=lambda done, total, what: seen.append(done))
    assert min(seen[1:]) > 15  # the first epoch's steps were not run again
    before, after = load_arrays(taught[0]), load_arrays(out)
    assert all((before[name] == after[name]).all() for name in ARRAYS)


def test_rows_aside_are_watched(encoders: Path, tmp_path: Path) -> None:
    said = teach(encoders / "bge", tmp_path / "out", WORDS, aside=range(10))
    assert said["loss_aside"] > 0


@pytest.mark.parametrize("kind", ["e5", "modernbert"])
def test_encoders_of_other_kinds_are_taught_too(encoders: Path, tmp_path: Path, kind: str) -> None:
    """Other tokenizers: pieces that count the space before them, and bytes."""
    said = teach_place(encoders / kind, tmp_path / "out", [Aim(0, [(4, 8)])] * 6)
    assert math.isfinite(said["loss"])
    assert load_arrays(tmp_path / "out")["place_weight"].shape == (1, 3, 32)


def test_a_batch_that_teaches_nothing_does_not_end_it(encoders: Path, tmp_path: Path) -> None:
    """Values that stand in no text and are rare: whole batches may have nothing else."""
    said = teach_place(encoders / "bge", tmp_path / "out", [Aim(0, [(4, 8)]), *[Aim(None)] * 5])
    assert said["epochs"] == 2


def test_values_of_which_nothing_is_learned_are_counted(encoders: Path, tmp_path: Path) -> None:
    aims = [Aim(0, [(4, 8)]), Aim(0, [(5, 8)]), Aim(0, [(4, 8), (5, 8)]), Aim(None)]
    assert teach_place(encoders / "bge", tmp_path / "out", aims)["unreadable"] == [1]


def test_a_tokenizer_that_tells_no_places_is_refused(encoders: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(encoders / "bge", tmp_path / "source"))
    (source / "tokenizer.json").unlink()
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(ExportError, match="tokenizer doesn't tell where its tokens stand; take another"):
        teach(source, tmp_path / "out")
    assert not (tmp_path / "out" / LAYER).exists()


# --- a row in tokens ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(encoders: Path) -> Any:
    """Of ``bge``, which knows these words and reads all others letter by letter."""
    return transformers.AutoTokenizer.from_pretrained(encoders / "bge")


def made(tokenizer: Any, text: str, aim: Aim, length: int = 64) -> tuple[list[int], list[tuple[int, int]]]:
    """Options and places of a row's only field."""
    row = make_span_row(tokenizer, text, length, [[aim.option, aim.places]])
    assert len(row.tokens) == len(row.stands) <= length
    return list(row.options), row.places.get(0, [])


def test_places_are_told_in_tokens(tokenizer: Any) -> None:
    assert made(tokenizer, TEXT, Aim(1, [(4, 8), (16, 20)])) == ([1], [(2, 2), (5, 5)])
    assert made(tokenizer, "an M37 (old)", Aim(0, [(3, 6)])) == ([0], [(3, 5)])
    assert made(tokenizer, "an M37 (old)", Aim(0, [(8, 11)])) == ([0], [(7, 9)])


def test_the_encoders_own_tokens_stand_nowhere(tokenizer: Any) -> None:
    assert make_span_row(tokenizer, TEXT, 64, []).stands == [False, *[True] * 5, False]


def test_what_was_cut_off_is_not_learned(tokenizer: Any) -> None:
    assert made(tokenizer, TEXT, Aim(1, [(12, 15)]), length=5) == ([-1], [])
    assert made(tokenizer, "an M37 is hot", Aim(1, [(3, 6)]), length=5) == ([-1], [])  # its end is cut off


def test_a_value_that_stands_before_the_cut_too_is_learned_there(tokenizer: Any) -> None:
    assert made(tokenizer, TEXT, Aim(1, [(4, 8), (16, 20)]), length=5) == ([1], [(2, 2)])


def test_what_is_learned_by_heart_or_missing_needs_no_place(tokenizer: Any) -> None:
    assert made(tokenizer, TEXT, Aim(2), length=5) == ([2], [])
    assert made(tokenizer, TEXT, Aim(0), length=5) == ([0], [])
    assert made(tokenizer, TEXT, Aim(None)) == ([-1], [])


def test_places_within_a_token_are_not_learned(tokenizer: Any) -> None:
    assert made(tokenizer, TEXT, Aim(0, [(4, 7)])) == ([-1], [])
    assert made(tokenizer, TEXT, Aim(0, [(5, 8)])) == ([-1], [])


@pytest.mark.parametrize("kind", ["e5", "modernbert"])
def test_space_before_a_word_is_no_part_of_it(encoders: Path, kind: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoders / kind)
    text = "M3 the pump"
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    for start, end in ((0, 2), (3, 6), (7, 11)):
        options, ((first, last),) = made(tokenizer, text, Aim(0, [(start, end)]))
        assert options == [0]
        assert (offsets[first][0], offsets[last][1]) in ((start, end), (start - 1, end))


def test_all_tokens_of_a_character_are_covered(encoders: Path) -> None:
    """Those of a letter in bytes stand at one place."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoders / "modernbert")
    text = "an éa here"
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    assert made(tokenizer, text, Aim(0, [(3, 5)]))[1] == [(offsets.index((3, 4)), offsets.index((4, 5)))]
    assert offsets.count((3, 4)) == 2


# --- the loss ----------------------------------------------------------------------------------------

FRAME = (False, *[True] * 4, False)
ROW = SpanRow([2, 10, 11, 12, 13, 3], FRAME, [1, 0], {0: [(1, 2)]})


@pytest.fixture(scope="module")
def model(encoders: Path) -> Any:
    return transformers.AutoModel.from_pretrained(encoders / "bge", dtype=torch.float32).eval()


def pupil(model: Any, *options: int, pooling: str = "cls", normalize: bool = True) -> SpanHead:
    torch.manual_seed(1)
    return SpanHead(model, options, pooling, normalize=normalize)


def told(pupil: SpanHead, *rows: SpanRow) -> float:
    with torch.no_grad():
        return float(pupil.losses(rows, (1.0,)).mean())


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("normalize", [True, False])
def test_rows_of_several_lengths_are_told_as_each_alone(model: Any, pooling: str, normalize: bool) -> None:
    rows = [
        ROW,
        SpanRow([2, 20, 3], (False, True, False), [0, 1], {1: [(1, 1)]}),
        SpanRow(
            [2, *range(10, 18), 3], (False, *[True] * 8, False), [-1, 0], {0: [(1, 1), (4, 8)], 1: [(2, 3)]}
        ),
        SpanRow([2, 20, 21, 3], (False, True, True, False), [-1, -1], {}),
    ]
    one = pupil(model, 3, 2, pooling=pooling, normalize=normalize)
    alone = [told(one, row) for row in rows]
    assert alone[-1] == 0
    assert told(one, *rows) == pytest.approx(sum(alone) / 4, rel=1e-4)


def test_a_value_that_stands_twice_may_be_found_at_either_place(model: Any) -> None:
    """Its loss is that of the sum of both. What a place covers is told alike of all tokens here."""
    one = pupil(model, 1)
    with torch.no_grad():
        *_, weight, bias = one.layers
        weight[2], bias[2] = 0, 0
    covered = 4 * math.log(2)
    shares = [
        math.exp(covered - told(one, SpanRow(ROW.tokens, FRAME, [0], {0: places})))
        for places in ([(1, 2)], [(4, 4)], [(1, 2), (4, 4)])
    ]
    assert shares[2] == pytest.approx(shares[0] + shares[1], rel=1e-4)
    assert 0 < shares[2] < 1


def test_the_encoders_own_tokens_can_be_no_place(model: Any) -> None:
    """All that could stand there are told apart: their shares sum to 1."""
    one = pupil(model, 1)
    with torch.no_grad():
        *_, weight, bias = one.layers
        weight[2], bias[2] = 0, 0
    everywhere = [(begin, end) for begin in range(1, 5) for end in range(1, 5)]
    assert told(one, SpanRow(ROW.tokens, FRAME, [0], {0: everywhere})) == pytest.approx(
        4 * math.log(2), abs=1e-4
    )


def test_a_field_with_one_option_and_a_row_without_any_cost_nothing(model: Any) -> None:
    assert told(pupil(model, 1), SpanRow(ROW.tokens, FRAME, [0], {})) == 0
    assert told(pupil(model, 3), SpanRow(ROW.tokens, FRAME, [-1], {})) == 0


@pytest.mark.parametrize("normalize", [True, False])
def test_the_layer_that_is_written_is_for_the_vector_as_it_is(
    model: Any, encoders: Path, tmp_path: Path, normalize: bool
) -> None:
    one = pupil(model, 3, normalize=normalize)
    one.save(encoders / "bge", tmp_path / "out")
    arrays = load_arrays(tmp_path / "out")
    tokens = torch.tensor([ROW.tokens])
    with torch.no_grad():
        vector = model(input_ids=tokens).last_hidden_state[0, 0].numpy()
    if normalize:
        vector = vector / np.linalg.norm(vector)
    logits = arrays["weight"] @ vector + arrays["bias"]
    expected = float(np.logaddexp.reduce(logits) - logits[1])
    assert told(one, SpanRow(ROW.tokens, FRAME, [1], {})) == pytest.approx(expected, abs=1e-3)


def test_the_loss_at_a_temperature_is_that_of_divided_scores(model: Any) -> None:
    whole, halved = pupil(model, 3, 2), pupil(model, 3, 2)
    with torch.no_grad():
        for layer in halved.layers:
            layer /= 2
        losses = whole.losses([ROW], (1.0, 2.0))
    assert losses[:, 0].tolist() == pytest.approx([told(whole, ROW), told(halved, ROW)], rel=1e-5)


def test_each_row_has_a_loss_of_its_own(model: Any) -> None:
    one = pupil(model, 3, 2)
    other = SpanRow([2, 20, 3], (False, True, False), [0, 1], {1: [(1, 1)]})
    with torch.no_grad():
        (losses,) = one.losses([ROW, other], (1.0,))
    assert losses.tolist() == pytest.approx([told(one, ROW), told(one, other)], rel=1e-4)
