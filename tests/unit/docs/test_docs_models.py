"""The table of models in docs/guides/models.md is what ``edgeslm-export plan --table`` prints."""

from __future__ import annotations

import re

from edgeslm_export.models.choice_table import read_figures, table_lines

from edgeslm.bundle.catalog import USES
from edgeslm.hardware.board_profiles import board_names, load_board
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/guides/models.md").read_text("utf-8")
FIGURES = "benchmarks/data/model_figures.json"


def test_the_table_is_that_of_the_command() -> None:
    boards = [load_board(name) for name in board_names()]
    table = "\n".join(table_lines(boards, read_figures(ROOT / FIGURES)))
    command = f"edgeslm-export plan --table --figures {FIGURES}"
    assert command in PAGE
    assert table in PAGE, f"{command} prints it anew"


def test_the_uses_are_those_of_the_catalog() -> None:
    rows = [f"| `{name}` | {use.read}" for name, use in USES.items()]
    rows = [
        re.escape(row) + rf" .*{use.written} written \| {use.seconds:.0f} s \|"
        for row, use in zip(rows, USES.values(), strict=True)
    ]
    for row in rows:
        assert re.search(row, PAGE), row
