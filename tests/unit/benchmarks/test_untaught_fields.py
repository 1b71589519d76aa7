"""benchmarks/lib/untaught_fields.py: which fields of a sentence are expected."""

from __future__ import annotations

from types import ModuleType

import jsonschema
import pytest

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def fields() -> ModuleType:
    return load_scripts("untaught_fields")["untaught_fields"]


def test_only_words_of_the_sentence_are_expected(fields: ModuleType) -> None:
    said = {"intent": "HassTurnOff", "name": "hall lamp", "area": "attic", "domain": "light"}
    rows = [
        {"text": "switch off the hall lamp", "fields": said},
        {"text": "who are you", "fields": {"intent": "HassRespond"}},
    ]
    (row,) = fields.sentences(rows)
    assert (row.text, row.fields) == (
        "switch off the hall lamp",
        {"action": "turn_off", "name": "hall lamp"},
    )
    jsonschema.validate(row.fields, fields.SCHEMAS["house"])


def test_no_more_sentences_than_wanted_are_drawn(fields: ModuleType) -> None:
    row = {"text": "pause", "fields": {"intent": "HassMediaPause"}}
    assert len(fields.sentences([row] * 300)) == fields.TEXTS
