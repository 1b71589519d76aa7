"""benchmarks/lib/scaling.py: the exponents of curves, the chart, and a small run with the real model."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("scaling", "scaling_figures", "engine_speed", "node_times", "turns", "ours", "cards")


@pytest.mark.parametrize(
    ("constant", "power", "name", "wanted"),
    [
        (0, 1.0, "all", True),
        (0, 2.0, "all", False),
        (0, 2.0, "attention", True),
        (0, 3.0, "attention", False),
        (50, 0.0, "all", True),
    ],
)
def test_the_exponent_is_that_of_the_far_end(
    scripts: dict[str, ModuleType], constant: float, power: float, name: str, wanted: bool
) -> None:
    x = (1, 2, 4, 8, 16, 32, 64)
    curve = scripts["scaling_figures"].Curve("x", name, x, [constant + 3 * n**power for n in x])
    assert curve.exponent == pytest.approx(power, abs=0.01)
    assert curve.is_wanted == wanted


def test_what_is_constant_weighs_little_at_the_far_end(scripts: dict[str, ModuleType]) -> None:
    x = (1, 2, 4, 8, 16, 32, 64)
    curve = scripts["scaling_figures"].Curve("x", "all", x, [20 + n**2 for n in x])
    assert 1.9 < curve.exponent < 2


def curves(figures: ModuleType) -> list[object]:
    return [
        figures.Curve("labels", "one pass", (1, 2, 4), (10.0, 11.0, 12.0)),
        figures.Curve("labels", "one by one", (1, 2, 4), (10.0, 20.0, 80.0)),
        figures.Curve("tasks", "a label", (1, 20), (30.0, 30.0)),
    ]


def test_the_table_names_what_is_worse_than_linear(scripts: dict[str, ModuleType]) -> None:
    figures = scripts["scaling_figures"]
    shown = figures.table(curves(figures)).splitlines()
    assert shown[0].split() == ["labels", "1", "2", "4"]
    assert shown[2].split()[-3:] == ["10.0", "20.0", "80.0"]
    assert [line for line in shown if "worse" in line] == [
        "labels, one by one: grows as x^1.50 at the far end, worse than linear"
    ]


def test_the_chart_has_a_panel_for_each_thing_that_grows(scripts: dict[str, ModuleType]) -> None:
    figures = scripts["scaling_figures"]
    picture = figures.chart(curves(figures))
    ET.fromstring(picture)
    assert 'id="axes_2"' in picture and 'id="axes_3"' not in picture


def test_there_are_as_many_labels_as_are_asked_for(scripts: dict[str, ModuleType]) -> None:
    assert len(set(scripts["scaling"].ALL_LABELS)) == max(scripts["scaling"].LABELS) == 64


def test_the_real_model_is_measured(
    scripts: dict[str, ModuleType], starter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = argparse.Namespace(
        bundle=starter / "smollm2-135m-int4",
        threads=1,
        rounds=1,
        labels=[1, 2, 16],
        tokens=[32, 64, 192],
        tasks=[1, 2],
        chart=None,
    )
    found = scripts["scaling"].measure(options, print)
    names = [(curve["of"], curve["name"]) for curve in found["curves"]]
    assert names == [
        ("labels", "one by one"),
        ("labels", "one pass"),
        ("tokens of input", "all"),
        ("tokens of input", "attention"),
        ("tokens of input", "the rest"),
        ("tasks that take turns", "a label"),
    ]
    assert all(ms > 0 for curve in found["curves"] for ms in curve["ms"])
    assert len(found["held"]) == 2
    assert "instructions held in the cache" in capsys.readouterr().out
