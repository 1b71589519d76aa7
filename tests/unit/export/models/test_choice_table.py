"""The table of models and boards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from edgeslm_export.cli.main import main
from edgeslm_export.models.choice_table import read_figures, table_lines

from edgeslm.bundle.catalog import MODELS
from edgeslm.errors import ExportError
from edgeslm.hardware.board_profiles import board_names, load_board

PI = load_board("pi5-4gb")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_for_each_model_and_a_column_for_each_board() -> None:
    head, _, *rows = map(cells, table_lines([PI, replace(PI, name="large", memory_bytes=10**11)], {}))
    assert head == ["model", "licence", "bundle", "memory", "`pi5-4gb`", "`large`"]
    assert [row[0] for row in rows] == [f"`{model.source}`" for model in MODELS]
    large = {row[0]: row[4:] for row in rows}["`Qwen/Qwen2.5-7B-Instruct`"]
    assert large[0] == "no" and large[1].replace(" / ", "").replace(".", "").isdecimal()
    for column in (4, 5):
        assert sum(row[column].startswith("**") for row in rows) == 1, "the proposed one"


def test_measured_figures_are_columns_if_there_are_any(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text('{"minutes": {"SmolLM2-135M": 4.5, "Qwen2.5-0.5B": "9 to 10"}, "labels": {}}')
    head, _, *rows = map(cells, table_lines([PI], read_figures(file)))
    assert head[-2:] == ["`pi5-4gb`", "minutes"]
    assert [row[-1] for row in rows[:3]] == ["4.5", "", "9 to 10"]


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {"m": null}}', '{"a": {"m": true}}', "{", ""])
def test_a_file_of_figures_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "figures.json").write_text(text)
    with pytest.raises(ExportError, match=r"figures\.json (must map|is not JSON)"):
        read_figures(tmp_path / "figures.json")
    with pytest.raises(ExportError, match="can't be read: No such file"):
        read_figures(tmp_path / "none.json")


def test_the_command_prints_it_for_all_boards_or_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--table"]) == 0
    head = cells(capsys.readouterr().out.splitlines()[0])
    assert head[4:] == [f"`{name}`" for name in board_names()]
    assert main(["plan", "--table", "--board", "n100", "--context", "1024"]) == 0
    assert cells(capsys.readouterr().out.splitlines()[0])[4:] == ["`n100`"]


@pytest.mark.parametrize("argv", [["plan"], ["plan", "--table", "a/b"], ["plan", "--table", "--json"]])
def test_a_table_or_a_model(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 1
    assert "--table" in capsys.readouterr().err
