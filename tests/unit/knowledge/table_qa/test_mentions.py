"""What stretches of a question can mean beside a table."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeslm.knowledge.documents.cells import Column
from edgeslm.knowledge.index.table_terms import Comparator, Operation, key_of
from edgeslm.knowledge.table_qa.mentions import (
    Asks,
    Cells,
    Compares,
    Date,
    Mention,
    Named,
    Noun,
    Number,
    Superlative,
    Unit,
    find_mentions,
    read_tokens,
)
from tests.support.knowledge.sheets import PRESSES, read

TABLE = read(PRESSES).table
assert TABLE is not None
COLUMNS = TABLE.columns
HALL, TEMPERATURE = 1, 3
CELLS = {1: ["North", "South"], 5: ["Ann", "Bob", "Cem"], 6: ["ok", "warning", "critical", "No"]}


def lookup(keys: Collection[str]) -> dict[str, dict[int, set[str]]]:
    found: dict[str, dict[int, set[str]]] = {}
    for place, cells in CELLS.items():
        for cell in cells:
            if key_of(cell) in keys:
                found.setdefault(key_of(cell), {}).setdefault(place, set()).add(cell)
    return found


def mentions_of(question: str) -> tuple[list[Mention], list[str]]:
    return find_mentions(question, "shop/presses.csv", COLUMNS, lookup)


def meanings(question: str) -> list[object]:
    """Of the only stretch that means anything."""
    (mention,), unknown = mentions_of(question)
    assert unknown == []
    return list(mention.meanings)


def test_columns_cells_and_dates() -> None:
    assert meanings("the temperature") == [Named(TEMPERATURE, True, False, False)]
    assert meanings("in the north") == [Cells(HALL, frozenset({"North"}))]
    assert meanings("on 1 March 2026") == [Date("2026-03-01")]
    assert set(map(type, meanings("in 2026"))) == {Date, Number}


def test_operations_comparisons_and_units() -> None:
    assert meanings("how many") == [Asks(Operation.COUNT)]
    assert meanings("more than") == [Compares(Comparator.ABOVE)]
    assert meanings("5") == [Number(Decimal(5))]
    assert Unit("c") in meanings("celsius")
    assert isinstance(meanings("hottest")[0], Superlative)


def test_numbers_as_people_write_them() -> None:
    assert [meanings(text) for text in ("1,234.5", "1,5", "-3")] == [
        [Number(Decimal(number))] for number in ("1234.5", "1.5", "-3")
    ]
    assert [token.text for token in read_tokens("V-12 at -3.5")] == ["v", "12", "at", "-3.5"]


def test_the_documents_name_says_what_a_row_is_unless_a_column_does() -> None:
    assert meanings("the presses") == [Named(0, True, True, True)]
    (mention,), _ = find_mentions("the machines", "machines.csv", COLUMNS, lookup)
    assert mention.meanings == (Noun(False, True, False),)


def test_the_longest_stretch_counts() -> None:
    (mention,), _ = mentions_of("how many different")
    assert mention.meanings == (Asks(Operation.DISTINCT),)


@pytest.mark.parametrize(
    ("question", "unknown"),
    [
        ("the humidity of press 4", ["humidity"]),
        ("not in the north", ["not"]),
        ("pressure by hall", ["by"]),
        ("don't", ["don", "t"]),
        ("Ann's press", []),
        ("could you please tell me", []),
        ("the operator called Ann", []),
        ("the operator called", ["called"]),
    ],
)
def test_words_that_mean_nothing_are_told(question: str, unknown: list[str]) -> None:
    assert mentions_of(question)[1] == unknown


def test_a_denial_is_a_cell_only_in_capitals() -> None:
    assert mentions_of("is it no")[1] == ["no"]
    assert mentions_of("is it NO")[1] == []


@pytest.mark.parametrize("misspelt", ["temprature", "temperture", "tempreature", "temperaturre"])
def test_a_letter_may_be_wrong_in_a_columns_name(misspelt: str) -> None:
    assert meanings(f"the {misspelt}") == [Named(TEMPERATURE, True, False, False)]


def test_a_number_alone_names_no_column() -> None:
    columns = [Column("alpha_2"), Column("alpha_3")]
    (mention,), _ = find_mentions("2", "a.csv", columns, lookup)
    assert mention.meanings == (Number(Decimal(2)),)
    (mention,), _ = find_mentions("alpha 2", "a.csv", columns, lookup)
    assert mention.meanings == (Named(0, True, False, False),)


def test_no_letter_may_be_wrong_in_a_cell_or_in_a_short_word() -> None:
    assert mentions_of("criticall")[1] == ["criticall"]
    assert mentions_of("hill")[1] == ["hill"]
    assert find_mentions("county", "a.csv", [Column("country")], lookup)[1] == ["county"]


@given(st.text(max_size=200))
def test_any_text_is_read(question: str) -> None:
    mentions, _ = mentions_of(question)
    tokens = read_tokens(question)
    assert all(0 <= mention.first < mention.last <= len(tokens) for mention in mentions)
    assert all(mention.said in question for mention in mentions)
