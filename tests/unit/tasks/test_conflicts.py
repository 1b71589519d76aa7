"""Passages that contradict each other, and those that only look like it."""

from __future__ import annotations

import pytest

from edgeslm.tasks.conflicts import find_conflict
from tests.support.passages import make_found

CONTRADICTING = (
    (
        "How often is the pump oiled?",
        "Oil the pump every 40 hours.",
        "The pump has to be oiled every 60 hours.",
    ),
    ("Who is the director of Acme?", "The director of Acme is Jane Doe.", "Acme's director is Peter Smith."),
    ("Is the gas safe?", "The gas is safe to breathe.", "The gas is not safe to breathe."),
    ("Is the gas safe?", "The gas is safe to breathe.", "The gas is dangerous to breathe."),
    ("May the guard be opened?", "The guard may be opened.", "The guard can't be opened."),
)
AGREEING = (
    ("How often is the pump oiled?", "Oil the pump every 40 hours.", "The pump is oiled every 40 hours."),
    ("How often is the pump oiled?", "Oil the pump every 40 hours.", "The press is greased every 60 hours."),
    ("How often is the pump oiled?", "Oil the pump every 40 hours.", "Oil the pump with 2 litres."),
    ("Is the gas safe?", "The gas is safe to breathe.", "The gas is not dangerous to breathe."),
    ("What is the port?", "The port is 1883.", "Nothing is said about that."),
    ("Is it so?", "It is so.", "It is not so."),
)


@pytest.mark.parametrize(("question", "one", "other"), CONTRADICTING)
def test_contradictions_are_found(question: str, one: str, other: str) -> None:
    passages = [
        make_found("Some words before. " + one),
        make_found("Nothing here."),
        make_found(other, source="b.md"),
    ]
    conflict = find_conflict(question, passages)
    assert conflict is not None
    assert [side[0].text[side[1] : side[2]] for side in (conflict.one, conflict.other)] == [one, other]


@pytest.mark.parametrize(("question", "one", "other"), AGREEING)
def test_agreement_is_none(question: str, one: str, other: str) -> None:
    assert find_conflict(question, [make_found(one), make_found(other, source="b.md")]) is None


@pytest.mark.parametrize(
    ("question", "one", "other"),
    [
        ("At how many bar does pump P7 run?", "Pump P7 runs at 6.5 bar.", "Pump P9 runs at 9 bar."),
        ("How often is press 4 oiled?", "Oil press 4 every 40 hours.", "Oil press 5 every 60 hours."),
    ],
)
def test_what_is_said_of_another_of_its_kind_contradicts_nothing(question: str, one: str, other: str) -> None:
    assert find_conflict(question, [make_found(one), make_found(other, source="b.md")]) is None
    same = make_found(other.replace("P9", "P7").replace("press 5", "press 4"), source="b.md")
    assert find_conflict(question, [make_found(one), same]) is not None


def test_the_heading_says_of_which_of_its_kind_a_section_is() -> None:
    passages = [
        make_found("The pump runs at 6.5 bar.", heading="Pump P7 > Pressure"),
        make_found("The pump runs at 9 bar.", heading="Pump P9 > Pressure"),
    ]
    assert find_conflict("At how many bar does the pump P7 run?", passages) is None
    assert find_conflict("At how many bar does the pump run?", passages) is not None


def test_sections_of_other_things_are_not_compared() -> None:
    """The same words below another option's title say something of that option."""
    passages = [
        make_found("Defaults to 1883.", heading="OPTIONS > --port"),
        make_found("Defaults to 60.", heading="OPTIONS > --keepalive"),
    ]
    assert find_conflict("What is the default port?", passages) is None


def test_a_section_is_not_held_against_itself() -> None:
    passages = [
        make_found("MSS is MTU less 60.", heading="MTU"),
        make_found("MSS is MTU less 40.", heading="MTU"),
    ]
    assert find_conflict("What is MSS?", passages) is None
