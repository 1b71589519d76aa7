"""benchmarks/agreement.py: what counts as the same label, and how far two ways lie apart."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeslm.engine.worker.labels import make_tree
from tests.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("agreement", "labelled", "ours", "cards", "machine")


@pytest.fixture(scope="module")
def agreement(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["agreement"]


WALK = np.array([[0.6, 0.4], [0.51, 0.49], [0.1, 0.9], [0.3, 0.7]])
PASS = np.array([[0.7, 0.3], [0.49, 0.51], [0.1, 0.9], [0.3, 0.7]])


def test_another_label_counts_with_its_margin(agreement: ModuleType) -> None:
    found = agreement.agreement(PASS, WALK)
    assert found.same == 0.75
    assert found.apart == pytest.approx([0.1, 0.02, 0, 0])
    assert found.margins == pytest.approx([0.02])
    row = found.figures()
    assert (row["messages"], row["same"], row["margins_of_others"]) == (4, 0.75, [0.02])
    assert row["apart"] == {"median": 0.01, "p99": 0.0976, "most": 0.1}


def test_sets_are_joined_by_message(agreement: ModuleType) -> None:
    parts = [agreement.agreement(PASS, WALK), agreement.agreement(WALK[:1], WALK[:1])]
    both = agreement.joined(parts)
    assert both.same == pytest.approx(0.8)
    assert len(both.apart) == 5
    shown = agreement.table({"all": both, "none": parts[1]})
    assert "80.0%" in shown and shown.endswith("none")


@pytest.mark.parametrize("name", ["trec", "sms"])
def test_each_set_has_labels_that_begin_alike(agreement: ModuleType, name: str) -> None:
    words: dict[str, int] = {}
    labels = agreement.LABELS[name]
    tokens = [[words.setdefault(word, len(words)) for word in label.split()] for label in labels]
    assert any(below.children for _, _, below in make_tree(tokens).edges())
    call = next(agreement.calls(name, ["Where is Paris?"]))
    assert call.labels == labels


def test_the_real_model_is_asked_both_ways(
    scripts: dict[str, ModuleType], starter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreement, labelled = scripts["agreement"], scripts["labelled"]
    rows = [{"text": "Where is Paris?", "label": "LOC"}, {"text": "Win a prize now", "label": "spam"}]
    for name in agreement.LABELS:
        own = labelled.Labelled(name, rows, ())
        monkeypatch.setitem(agreement.SETS, name, lambda packages, own=own: own)
    options = argparse.Namespace(bundle=starter / "smollm2-135m-int4", messages=4, threads=1)
    found = agreement.measure(options, print)
    assert (found["one_pass"]["messages"], found["itself"]["messages"]) == (4, 4)
    assert 0 < found["one_pass"]["apart"]["most"] < 0.3
    assert [row["name"] for row in found["sets"]] == ["trec", "sms"]
