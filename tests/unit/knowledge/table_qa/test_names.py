"""Names of columns: which words name which."""

from __future__ import annotations

import pytest

from edgeslm.knowledge.documents.cells import CellKind, Column
from edgeslm.knowledge.index.table_terms import alike
from edgeslm.knowledge.table_qa.names import read_names


def found(names: list[str], said: str, kind: CellKind = CellKind.NUMBER) -> list[str]:
    columns = [Column(name, kind) for name in names]
    words = frozenset(map(alike, said.split()))
    return [names[place] for place, _ in read_names(columns).find(words)]


@pytest.mark.parametrize(
    ("names", "said", "meant"),
    [
        (["temperature_c", "pressure_bar"], "temperature", ["temperature_c"]),
        (["temp_max", "temp_min"], "maximum temperature", ["temp_max"]),
        (["temp_max", "temp_min"], "temperature", ["temp_max", "temp_min"]),
        (["name", "official_name"], "name", ["name"]),
        (["name", "official_name"], "official name", ["official_name"]),
        (["release_date"], "release", ["release_date"]),
        (["release_manager"], "release", []),
        (["eol", "eol-lts"], "eol", ["eol"]),
        (["eol", "eol-lts"], "lts", ["eol-lts"]),
        (["oil_temp_c"], "temperature", ["oil_temp_c"]),
        (["temp_c"], "oil temperature", []),
        (["country_code"], "country name", []),
        (["order_id"], "order", ["order_id"]),
        (["version"], "version number", ["version"]),
        (["Weight_in_lbs"], "weight", ["Weight_in_lbs"]),
        (["Adj. Close*", "Close"], "close", ["Close"]),
    ],
)
def test_what_words_name(names: list[str], said: str, meant: list[str]) -> None:
    assert found(names, said) == meant


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("temperature_c", "c"),
        ("Temp (°C)", "c"),
        ("pressure [bar]", "bar"),
        ("Weight_in_lbs", "lb"),
        ("temp_min", ""),
        ("downtime_min", "min"),
        ("kg", ""),
        ("country", ""),
    ],
)
def test_units_at_the_end_of_a_name(name: str, unit: str) -> None:
    assert read_names([Column(name, CellKind.NUMBER)]).all[0].unit == unit


def test_the_unit_of_the_cells_counts_too() -> None:
    assert read_names([Column("weight", CellKind.NUMBER, unit="kg")]).all[0].unit == "kg"


def test_what_tells_two_columns_apart_is_no_unit() -> None:
    assert found(["phase_a", "phase_v"], "phase v") == ["phase_v"]
    assert found(["temp_c", "temp_f"], "temperature") == []


def test_a_text_has_no_unit() -> None:
    assert found(["plan_a", "plan"], "plan", CellKind.TEXT) == ["plan"]
