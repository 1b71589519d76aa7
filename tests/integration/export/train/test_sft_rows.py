"""Rows as a decoder sees them: the prompt that a device makes, and the tree of labels at each token."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from edgeslm_export.train.lora_training import TokenRow
from edgeslm_export.train.sft_rows import LONGEST, RowEncoder

from edgeslm.config.loader import Task as TaskSection
from edgeslm.engine.calls import Generate, Output, Score
from edgeslm.engine.worker.prompt import ChatTokenizer
from edgeslm.messages import Request
from edgeslm.tasks import make_task
from tests.support.export.tiny_models import byte_vocabulary
from tests.support.fakes import FakeEngine
from tests.support.taught import CLASSIFY, adapter_bundle, head_bundle

END = 2
TOPIC = {**CLASSIFY, "instruction": "Which kind?"}
FIELDS: dict[str, Any] = {
    "task": "fields",
    "kind": "extract",
    "output_schema": {
        "type": "object",
        "properties": {"machine": {"type": "string"}, "heat": {"type": "number"}},
        "required": ["machine"],
    },
    "instruction": "Write the fields as JSON.",
    "rows": 9,
}
IDS = {token: number for number, token in enumerate(byte_vocabulary())}


def ids(text: str) -> list[int]:
    """Of letters that the byte-level vocabulary writes as themselves."""
    return [IDS[letter] for letter in text]


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is read of a decoder's bundle: its tokenizer, its template and its end tokens."""
    out = tmp_path_factory.mktemp("tokenizer") / "bundle"
    shutil.copytree(tiny / "plain", out, ignore=shutil.ignore_patterns("*.safetensors"))
    (out / "genai_config.json").write_text(json.dumps({"model": {"eos_token_id": [END, 0]}}))
    return out


@pytest.fixture(scope="module")
def encoder(folder: Path) -> RowEncoder:
    return RowEncoder(folder, make_task("topic", TaskSection(), adapter_bundle(TOPIC)))


def label_row(encoder: RowEncoder, shares: dict[str, float]) -> TokenRow:
    (row,) = encoder.label_rows(["it is"], list(shares), [list(shares.values())])
    assert row is not None
    return row


def steps(row: TokenRow) -> list[dict[int, float]]:
    assert row.steps is not None
    return [dict(zip(*step, strict=True)) for step in row.steps]


# --- the tree of labels ------------------------------------------------------------------------------


def test_labels_that_differ_at_once_are_told_at_one_position(encoder: RowEncoder) -> None:
    row = label_row(encoder, {"heat": 0.0, "noise": 1.0})
    assert list(row.answer) == ids("n")
    assert steps(row) == [{IDS["h"]: 0.0, IDS["n"]: 1.0}]


def test_labels_with_the_same_beginning_are_told_behind_it(encoder: RowEncoder) -> None:
    row = label_row(encoder, {"hot": 1.0, "hat": 0.0})
    assert list(row.answer) == ids("ho")
    assert steps(row) == [{IDS["h"]: 1.0}, {IDS["o"]: 1.0, IDS["a"]: 0.0}]


def test_a_label_that_is_the_beginning_of_another_ends_with_the_end_token(encoder: RowEncoder) -> None:
    short, long = label_row(encoder, {"on": 1.0, "one": 0.0}), label_row(encoder, {"on": 0.0, "one": 1.0})
    assert list(short.answer) == [*ids("on"), END]
    assert list(long.answer) == ids("one")
    assert steps(short)[2] == {END: 1.0, IDS["e"]: 0.0}
    assert steps(long)[2] == {END: 0.0, IDS["e"]: 1.0}


def test_labels_of_another_branch_have_no_say_below_it(encoder: RowEncoder) -> None:
    row = label_row(encoder, {"aa": 1.0, "ab": 0.0, "b": 0.0})
    assert steps(row) == [{IDS["a"]: 1.0, IDS["b"]: 0.0}, {IDS["a"]: 1.0, IDS["b"]: 0.0}]


def test_shares_of_a_branch_add_up(encoder: RowEncoder) -> None:
    row = label_row(encoder, {"aa": 0.5, "ab": 0.2, "b": 0.3})
    assert list(row.answer) == ids("aa")
    first, second = steps(row)
    assert first == pytest.approx({IDS["a"]: 0.7, IDS["b"]: 0.3})
    assert second == pytest.approx({IDS["a"]: 0.5 / 0.7, IDS["b"]: 0.2 / 0.7})


def test_a_branch_may_be_likelier_than_the_likeliest_label(encoder: RowEncoder) -> None:
    row = label_row(encoder, {"aa": 0.3, "ab": 0.3, "b": 0.4})
    assert list(row.answer) == ids("b")
    assert steps(row) == [pytest.approx({IDS["a"]: 0.6, IDS["b"]: 0.4})]


def test_steps_are_as_many_as_the_answers_tokens(encoder: RowEncoder) -> None:
    for wanted in ("stop", "start", "started", "go"):
        row = label_row(
            encoder, {label: float(label == wanted) for label in ("stop", "start", "started", "go")}
        )
        assert row.steps is not None
        assert len(row.steps) == len(row.answer)
        assert all(token in choices for token, (choices, _) in zip(row.answer, row.steps, strict=True))
        assert all(sum(shares) == pytest.approx(1) for _, shares in row.steps)


# --- prompts -----------------------------------------------------------------------------------------


def test_a_prompt_is_the_chat_up_to_the_models_turn(encoder: RowEncoder, folder: Path) -> None:
    row = label_row(encoder, {"a": 1.0, "b": 0.0})
    read = ChatTokenizer(folder).tokenizer.decode(row.prompt, skip_special_tokens=False)
    system = "<|im_start|>system\nWhich kind?<|im_end|>\n"
    assert read == f"{system}<|im_start|>user\nit is<|im_end|>\n<|im_start|>assistant\n"


def asked_on_a_device(learned: dict[str, Any], text: str) -> Score | Generate:
    """What a node asks whose configuration names no more than the folder."""
    section = TaskSection.model_validate({"learned": "there"}, strict=False)
    task = make_task("another name", section, adapter_bundle(learned))
    engine = FakeEngine(Output(text='{"machine":"M3"}', probabilities=(0.5, 0.5)))
    asyncio.run(task.run(Request("another name", text, "1", ""), engine, None))
    (call,) = engine.calls
    assert isinstance(call, Score | Generate)
    return call


@pytest.mark.parametrize("learned", [TOPIC, FIELDS], ids=["classify", "extract"])
def test_what_is_learned_from_is_what_a_device_asks(folder: Path, learned: dict[str, Any]) -> None:
    text = "M3 ran hot: it's <b>81</b> °C\n{{ really }}"
    taught = RowEncoder(folder, make_task("t", TaskSection(), adapter_bundle(learned)))
    if learned is TOPIC:
        (row,) = taught.label_rows([text], ["spam", "ham"], [[1.0, 0.0]])
    else:
        (row,) = taught.field_rows([text], [{"machine": "M3"}])
    assert row is not None
    prompt, truncated, _ = ChatTokenizer(folder).encode(asked_on_a_device(learned, text).prompt, LONGEST)
    assert truncated is None
    assert list(row.prompt) == prompt


def test_a_text_that_spells_an_end_token_stays_text(encoder: RowEncoder) -> None:
    (row,) = encoder.label_rows(["<|im_end|>"], ["a", "b"], [[1.0, 0.0]])
    assert row is not None
    assert list(row.prompt).count(END) == 2  # after the instruction and after the text


def test_texts_that_are_too_long_are_none(encoder: RowEncoder) -> None:
    whole = label_row(encoder, {"a": 1.0, "b": 0.0})
    room = LONGEST - len(whole.prompt) + len("it is")
    texts = ["x" * (room + 1), "x" * room, "y" * 5000, "z"]
    labelled = encoder.label_rows(texts, ["a", "b"], [[1.0, 0.0]] * 4)
    assert [row is None for row in labelled] == [True, False, True, False]
    assert labelled[1] is not None
    assert len(labelled[1].prompt) == LONGEST


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"machine": "M3", "heat": 81}, '{"machine":"M3","heat":81}'),
        ({"heat": 81, "machine": "M3"}, '{"machine":"M3","heat":81}'),
        ({"machine": "M3", "heat": None}, '{"machine":"M3"}'),
    ],
    ids=["in order", "in another order", "with one missing"],
)
def test_fields_are_written_as_the_grammar_writes_them(
    folder: Path, fields: dict[str, Any], written: str
) -> None:
    encoder = RowEncoder(folder, make_task("fields", TaskSection(), adapter_bundle(FIELDS)))
    (row,) = encoder.field_rows(["M3 at 81"], [fields])
    assert row is not None
    assert list(row.answer) == [*ids(written), END]
    assert row.steps is None


def test_fields_of_a_text_that_is_too_long_are_none(folder: Path) -> None:
    encoder = RowEncoder(folder, make_task("fields", TaskSection(), adapter_bundle(FIELDS)))
    rows = encoder.field_rows(["x" * 600, "M4"], [{"machine": "M3"}, {"machine": "M4"}])
    assert [row is None for row in rows] == [True, False]


def test_a_task_on_an_encoder_asks_no_decoder(folder: Path) -> None:
    encoder = RowEncoder(folder, make_task("topic", TaskSection(), head_bundle()))
    with pytest.raises(TypeError, match="the task topic asks no decoder"):
        encoder.label_rows(["it is"], ["a", "b"], [[1.0, 0.0]])
