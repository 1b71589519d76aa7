"""Tables for people: what a label holds breaks none."""

from __future__ import annotations

import contextlib
import io

import pytest
from edgeslm_export.cli.screen import print_columns, print_labels
from hypothesis import given, settings
from hypothesis import strategies as st


def test_a_label_with_a_line_break_stays_in_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    of = {"rows": 3, "precision": 0.5, "recall": None}
    print_labels({"a\nb": of, "caf\u00e9 🙂": of})
    assert capsys.readouterr().out.splitlines() == [
        "",
        "label   rows  precision  recall",
        "a\\nb       3      0.500       -",
        "caf\u00e9 🙂     3      0.500       -",
    ]


def test_what_a_terminal_obeys_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns(("label",), [("\x1b[31mred\t\u2028\ud800",)])
    assert capsys.readouterr().out.splitlines()[2] == r"\x1b[31mred\t\u2028\ud800"


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(st.text(), st.text()), max_size=4))
def test_every_row_is_one_line_of_one_width(rows: list[tuple[str, str]]) -> None:
    with contextlib.redirect_stdout(io.StringIO(newline="")) as out:
        print_columns(("a", "b"), rows)
    *lines, end = out.getvalue().split("\n")
    assert end == ""
    assert len(lines) == len(rows) + 2
    assert all(len(line.splitlines()) == 1 for line in lines[1:])
    assert len({len(line) for line in lines[1:]}) == 1
