"""benchmarks/lib/household_tools.py and assist_calls.py: which calls are right, and what a cascade costs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tests.support.benchmarks.scripts import load_scripts


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    return load_scripts("household_tools", "assist_calls")


WANTED = {"intent": "HassLightSet", "area": "kitchen", "brightness": "40"}


@pytest.mark.parametrize(
    ("call", "name", "whole"),
    [
        (None, False, False),
        ({"name": "HassTurnOn", "arguments": {"area": "kitchen", "brightness": 40}}, False, False),
        ({"name": "HassLightSet", "arguments": {"area": "kitchen", "brightness": 40}}, True, True),
        ({"name": "HassLightSet", "arguments": {"area": "Kitchen", "brightness": "40.0"}}, True, True),
        ({"name": "HassLightSet", "arguments": {"area": ["kitchen"], "brightness": 40, "x": ""}}, True, True),
        ({"name": "HassLightSet", "arguments": {"area": "kitchen"}}, True, False),
        ({"name": "HassLightSet", "arguments": {"area": "kitchen", "brightness": 40, "x": 1}}, True, False),
    ],
)
def test_a_call_is_right_as_a_whole_or_by_name(
    scripts: dict[str, ModuleType], call: Any, name: bool, whole: bool
) -> None:
    tools = scripts["household_tools"]
    assert (tools.is_name_right(call, WANTED), tools.is_call_right(call, WANTED)) == (name, whole)


def test_the_decoder_answers_where_the_head_is_not_sure(scripts: dict[str, ModuleType]) -> None:
    calls = scripts["assist_calls"]
    right = {"name": "HassLightSet", "arguments": {"area": "kitchen", "brightness": 40}}
    head = calls.Calls([right, None, None], ms=[4.0, 4.0, 4.0])
    found = calls.together(head, calls.Calls([None, right], ms=[900.0, 900.0]))
    assert (found.calls, found.ms) == ([right, right], [4.0, 904.0])
    figures = head.figures([{"fields": WANTED}] * 3)
    assert (figures["right"], figures["called"], figures["right_of_called"]) == (0.3333, 0.3333, 1.0)


def test_several_calls_are_a_wrong_one(scripts: dict[str, ModuleType]) -> None:
    def message(*arguments: str) -> dict[str, Any]:
        return {"tool_calls": [{"function": {"name": "a", "arguments": one}} for one in arguments]}

    call_of = scripts["assist_calls"]._call_of
    assert call_of({"content": "No"}) is None
    assert call_of(message('{"b": 1}')) == {"name": "a", "arguments": {"b": 1}}
    assert call_of(message('{"b": 1}', "{}"))["arguments"] == {"wrong": '{"b": 1}'}
    assert call_of(message("[1]"))["arguments"] == {"wrong": "[1]"}


def test_a_call_that_is_written_as_text(scripts: dict[str, ModuleType]) -> None:
    in_text = scripts["assist_calls"]._call_in_text
    call = {"name": "a", "arguments": {"b": 1}}
    for text in (
        '{"name": "a", "arguments": {"b": 1}}',
        '```json\n{"name": "a", "arguments": {"b": 1}}\n```',
    ):
        assert in_text(text) == call
    assert in_text("Sure.") is None and in_text('{"name": "a"}') is None and in_text("[1]") is None
