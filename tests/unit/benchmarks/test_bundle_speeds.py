"""benchmarks/lib/bundle_speeds.py without models: turns, ratios, the table, refusals."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.benchmarks.scripts import load_scripts

TURNS = load_scripts("turns")["turns"]


@pytest.fixture(scope="module")
def bundles() -> ModuleType:
    return load_scripts("bundle_speeds")["bundle_speeds"]


class Generator:
    """Counts its steps."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()
        self.tokens = 0

    def rewind_to(self, length: int) -> None:
        assert length == 0
        self.steps["turns"] += 1

    def append_tokens(self, ids: Any) -> None:
        self.tokens += len(ids)

    def generate_next_token(self) -> None:
        self.steps["new"] += 1


def test_all_take_the_same_turns_and_the_first_counts_for_nothing() -> None:
    generators = {"one": Generator(), "two": Generator()}
    spent = TURNS.take_turns(generators, 2)
    for name, generator in generators.items():
        assert generator.steps == {"turns": 3, "new": 3 * (TURNS.NEW_TOKENS - 1)}
        assert generator.tokens == 3 * TURNS.PROMPT_TOKENS
        assert {kind: len(times) for kind, times in spent[name].items()} == {
            kind: 2 * steps for kind, steps in TURNS.KINDS.items()
        }


def test_a_ratio_is_of_neighbours_so_a_slow_moment_falls_out() -> None:
    spent = {"base": {"decode": [1.0, 1.0, 9.0]}, "other": {"decode": [2.0, 2.0, 18.0]}}
    assert TURNS.ratios_to("base", spent) == {"base": {"decode": 1.0}, "other": {"decode": 2.0}}


def test_a_table_says_faster_as_more_than_one(bundles: ModuleType) -> None:
    spread = {"median": 1.25, "lowest": 1.2, "highest": 1.3}
    shown = bundles.table(
        {
            "base": "a",
            "base_ms": {"prefill": 100.0, "decode": 5.0},
            "bytes": {"a": 80_000_000, "b": 100_000_000},
            "speeds": {"b": {"prefill": spread, "decode": spread}},
        }
    )
    assert "100.0 ms for 128 prompt tokens, 5.0 ms for a new one, 80.0 MB" in shown
    assert "1.250 (1.200 to 1.300)" in shown


def test_what_is_no_bundle_is_refused(
    bundles: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine.py bundles", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit) as refusal:
        bundles.main()
    assert str(tmp_path) in str(refusal.value)


def test_a_child_answers_in_its_last_line(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import json, sys\nprint('loading')\nprint(json.dumps([sys.argv[2], json.load(sys.stdin)]))\n"
    )
    assert TURNS.in_child(str(script), "time", {"turns": 3}) == ["time", {"turns": 3}]
    script.write_text("raise SystemExit('no memory')\n")
    with pytest.raises(SystemExit, match="no memory"):
        TURNS.in_child(str(script), "time", {})
