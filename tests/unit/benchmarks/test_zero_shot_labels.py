"""benchmarks/lib/zero_shot_labels.py and untaught.py: what counts as right, and which texts are drawn."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgeslm.engine.calls import Prompt, Score
from edgeslm.engine.worker.prompt import Encoded
from tests.support.benchmarks.scripts import load_scripts

SCORES = [{"a": 0.6, "b": 0.4}, {"a": 0.9, "b": 0.1}]


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("untaught", "zero_shot_labels")


def test_a_bias_changes_what_is_right(scripts: dict[str, ModuleType]) -> None:
    accuracy = scripts["zero_shot_labels"].accuracy
    assert accuracy(SCORES, ["b", "a"]) == 0.5
    assert accuracy(SCORES, ["b", "a"], {"b": 0.25, "a": 0.75}) == 1.0


def test_a_draw_is_judged_on_other_rows(scripts: dict[str, ModuleType]) -> None:
    """The model says b of no row, and is less sure of a where b is right: a bias puts it right."""
    draws = scripts["zero_shot_labels"].draws
    rows = [{"a": 0.6, "b": 0.4}, {"a": 0.95, "b": 0.05}] * 40
    truth = ["b", "a"] * 40
    found = draws((rows, truth), (rows[:20], truth[:20]), ("a", "b"), 30, 5)
    assert (found.kept, found.mean, found.worst) == (1.0, 1.0, 0.5)
    chosen_from = ([{"a": 0.6, "b": 0.4}] * 30 + [{"a": 0.4, "b": 0.6}], ["b"] * 30 + ["a"])
    alone = draws(chosen_from, None, ("a", "b"), 30, 20)
    assert alone.mean in {round(number / 20, 4) for number in range(21)}, "one row is left of each draw"


def test_a_calibration_without_use_changes_nothing(scripts: dict[str, ModuleType]) -> None:
    rows, truth = [{"a": 0.99, "b": 0.01}, {"a": 0.01, "b": 0.99}] * 20, ["a", "b"] * 20
    found = scripts["zero_shot_labels"].draws((rows, truth), None, ("a", "b"), 10, 5)
    assert (found.mean, found.worst) == (1.0, 0.0)


class FakeEngine:
    """In the place of llama.cpp: token 1 has three times the probability of any other token."""

    def __init__(self, *_: object, **__: object) -> None:
        self.asked: list[list[int]] = []

    def logits(self, ids: list[int]) -> Any:
        self.asked.append(list(ids))
        return np.log(np.array([1.0, 3.0, 1.0, 1.0, 1.0]))


class FakeChat:
    def __init__(self, bundle: Path) -> None:
        """Takes what the tokenizer of a bundle takes."""

    def encode(self, prompt: Prompt, room: int) -> Encoded:
        return Encoded([9, 9], None, 0)

    def encode_text(self, text: str) -> list[int]:
        return [int(letter) for letter in text]


def test_llama_cpp_scores_labels_as_a_node_does(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    zero_shot = scripts["zero_shot_labels"]
    monkeypatch.setattr(zero_shot, "Engine", FakeEngine)
    monkeypatch.setattr(zero_shot, "ChatTokenizer", FakeChat)
    (tmp_path / "genai_config.json").write_text('{"model": {"eos_token_id": 4}}')
    llama = zero_shot.LlamaLabels(tmp_path / "x.gguf", tmp_path, 1, writes=False)
    found = asyncio.run(llama.ask(Score(Prompt(()), ("1", "23", "20"))))
    assert found.probabilities == pytest.approx((0.75, 0.125, 0.125))
    assert llama._engine.asked == [[9, 9], [9, 9, 2]], "a branch is read once"


@pytest.mark.parametrize(
    ("written", "label"),
    [("spam", "spam"), ("It is Ham, not spam.", "ham"), ("", None), ("no idea", None)],
)
def test_a_written_label_is_the_first_one(
    scripts: dict[str, ModuleType], written: str, label: str | None
) -> None:
    assert scripts["zero_shot_labels"].first_label(written, ["ham", "spam"]) == label


@pytest.mark.parametrize(("intent", "label"), [("HassTurnOn", "turn_on"), ("HassNevermind", None)])
def test_intents_that_have_no_label_are_left_out(
    scripts: dict[str, ModuleType], intent: str, label: str | None
) -> None:
    assert scripts["untaught"].label_of(intent) == label


def test_every_set_has_meanings_and_every_intent_a_known_label(scripts: dict[str, ModuleType]) -> None:
    untaught = scripts["untaught"]
    assert set(untaught.MEANINGS) == set(untaught.SETS)
    intents = ("HassStartTimer", "HassMediaPause", "HassClimateSetTemperature", "HassLightSet")
    assert {untaught.label_of(intent) for intent in intents} < set(untaught.MEANINGS["house"])


def test_no_test_text_is_used_to_develop_or_to_calibrate(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    untaught = scripts["untaught"]
    rows = [{"text": str(number % 350), "label": "ab"[number % 2]} for number in range(400)]
    monkeypatch.setitem(untaught.MEANINGS, "x", {"a": "", "b": ""})
    monkeypatch.setitem(untaught.LOADERS, "x", lambda packages: (rows, ()))
    drawn: Any = untaught.load_untaught("x", None)
    test = {row["text"] for row in drawn.test}
    assert (len(drawn.test), len(drawn.development), len(drawn.unlabelled)) == (100, 100, 64)
    assert not test & {row["text"] for row in drawn.development}
    assert not test & set(drawn.unlabelled)


def test_a_small_set_calibrates_on_its_development_texts(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    untaught = scripts["untaught"]
    rows = [{"text": str(number), "label": "ab"[number % 2]} for number in range(30)]
    test = [{"text": f"test {number}", "label": "a"} for number in range(9)]
    monkeypatch.setitem(untaught.MEANINGS, "x", {"a": "", "b": ""})
    monkeypatch.setitem(untaught.LOADERS, "x", lambda packages: (rows, test))
    drawn: Any = untaught.load_untaught("x", None)
    assert sorted(drawn.unlabelled) == sorted(row["text"] for row in rows)
