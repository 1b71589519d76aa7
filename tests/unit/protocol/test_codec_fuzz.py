"""The short form of ``benchmarks/robustness/fuzz.py``: no exception but the project's own."""

from __future__ import annotations

import json
from types import ModuleType

import pytest

from tests.support.benchmarks.scripts import load_scripts

KINDS = 12


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    return load_scripts("fuzz")["fuzz"]


def test_thousands_of_payloads_are_taken_or_refused(fuzz: ModuleType) -> None:
    figures = fuzz.run(fuzz.Payloads(3), 4000)
    assert len(figures["kinds"]) == KINDS
    assert {"ok", "invalid_request", "too_large"} <= figures["outcomes"].keys()
    assert figures["outcomes"]["ok"] > 200, "most paths begin behind a request that is taken"
    assert figures["objects_growth"] < 500, "what is parsed isn't kept"


def test_a_case_is_made_again_by_its_seed_and_number(fuzz: ModuleType) -> None:
    first = [fuzz.Payloads(3).make(number) for number in (7, 8)]
    assert first == [fuzz.Payloads(3).make(number) for number in (7, 8)]
    assert first[0] != fuzz.Payloads(4).make(7)


def test_a_defect_ends_it_with_what_makes_it_again(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_(payload: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fuzz, "PARSERS", (break_,))
    assert fuzz.main(["--cases", "1", "--seed", "3"]) == 1
    said = capsys.readouterr()
    assert "case 0: Case(" in said.err
    last = json.loads(said.out.splitlines()[-1])
    assert (last["seed"], last["defect"]) == (3, "ZeroDivisionError")
