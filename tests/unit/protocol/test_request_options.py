"""The options of a request: what is taken, what it becomes, and that the schemas say the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edgeslm.errors import InvalidRequest
from edgeslm.protocol.request_options import MAX_LABELS, OPTIONS, read_options

GOOD: list[tuple[str, Any, Any]] = [
    ("max_tokens", 64, 64),
    ("max_tokens", 5.0, 5),
    ("temperature", 0, 0.0),
    ("temperature", 2, 2.0),
    ("top_p", 0.01, 0.01),
    ("top_p", 1, 1.0),
    ("repetition_penalty", 1.1, 1.1),
    ("stop", "###", ["###"]),
    ("stop", ["a", "b"], ["a", "b"]),
    ("seed", 0, 0),
    ("stream", True, True),
    ("priority", 0, 0),
    ("priority", 9, 9),
    ("deadline_ms", 1500, 1500),
    ("labels", ["a", "b"], {"a": "", "b": ""}),
    ("labels", {"a": "all is well", "b": ""}, {"a": "all is well", "b": ""}),
    ("schema", {"type": "object"}, {"type": "object"}),
    ("tools", [{"name": "turn_on"}], [{"name": "turn_on"}]),
    ("tool_choice", "required", "required"),
    ("parallel_tool_calls", False, False),
    ("knowledge", ["manuals"], ["manuals"]),
    ("context", "a text", "a text"),
    ("sources", "press/*", "press/*"),
    ("since", 1764288000, 1764288000.0),
    ("until", 0.5, 0.5),
]
BAD_TOOLS: list[tuple[Any, str]] = [
    ("turn_on", ": it must be an object"),
    ({"description": "a"}, ": `name` must have 1 to 64 letters, digits, _, - or ., and no blanks"),
    ({"name": "a b"}, " ('a b'): `name` must have 1 to 64 letters, digits, _, - or ., and no blanks"),
    ({"name": "a", "type": "function"}, " ('a'): 'type' isn't one of name, description and parameters"),
    ({"name": "a", "description": 5}, " ('a'): `description` must be a text"),
    ({"name": "a", "parameters": "none"}, " ('a'): `parameters` must be an object, a JSON Schema"),
]
BAD: list[tuple[str, Any]] = [
    ("tools", []),
    ("tools", {"name": "turn_on"}),
    ("tool_choice", ""),
    ("parallel_tool_calls", "no"),
    ("tool_choice", {"name": "a"}),
    ("max_tokens", 0),
    ("max_tokens", 65537),
    ("max_tokens", 1.5),
    ("max_tokens", True),
    ("max_tokens", "64"),
    ("max_tokens", None),
    ("max_tokens", 10**18),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", False),
    ("temperature", float("nan")),
    ("top_p", 0),
    ("top_p", 1.01),
    ("repetition_penalty", 0),
    ("stop", ""),
    ("stop", []),
    ("stop", ["a", "a"]),
    ("stop", ["a", 1]),
    ("stop", [str(number) for number in range(17)]),
    ("seed", -1),
    ("seed", 2**31),
    ("stream", 1),
    ("stream", "true"),
    ("priority", 10),
    ("priority", -1),
    ("deadline_ms", 0),
    ("labels", []),
    ("labels", ["only"]),
    ("labels", ["a", "a"]),
    ("labels", ["a", ""]),
    ("labels", {"a": 1, "b": 2}),
    ("labels", {"": "x", "b": ""}),
    ("labels", "a,b"),
    ("labels", [str(number) for number in range(MAX_LABELS + 1)]),
    ("schema", {}),
    ("schema", "object"),
    ("knowledge", "manuals"),
    ("knowledge", []),
    ("context", " "),
    ("context", ["a"]),
    ("sources", ""),
    ("sources", "*" * 257),
    ("sources", ["press/*"]),
    ("since", "yesterday"),
    ("since", -1),
    ("since", 1764288000000),
    ("until", None),
]


@pytest.mark.parametrize(("name", "value", "read"), GOOD)
def test_a_good_value_is_read_into_its_one_form(name: str, value: Any, read: Any) -> None:
    options = read_options({name: value})
    assert options == {name: read}
    assert type(options[name]) is type(read)


@pytest.mark.parametrize(("tool", "sentence"), BAD_TOOLS)
def test_a_bad_tool_is_named_with_its_fault(tool: Any, sentence: str) -> None:
    assert not Draft202012Validator(dict(OPTIONS["tools"].schema)).is_valid([tool])
    with pytest.raises(InvalidRequest) as raised:
        read_options({"tools": [{"name": "good"}, tool]})
    assert str(raised.value) == f"Option 'tools': tool number 2{sentence}."


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_with_what_it_must_be(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"'{name}' must be"):
        read_options({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, value, _ in GOOD] + BAD,
)
def test_the_schema_takes_what_is_taken(name: str, value: Any) -> None:
    # Not blank and not not-a-number are more than a schema says.
    if value == " " or value != value:
        return
    good = any(name == one and value is other for one, other, _ in GOOD)
    assert Draft202012Validator(dict(OPTIONS[name].schema)).is_valid(value) == good


def test_every_option_of_the_contract_is_there() -> None:
    contract = (
        "max_tokens temperature top_p repetition_penalty stop seed stream priority deadline_ms labels schema "
        "tools tool_choice parallel_tool_calls knowledge context sources since until"
    )
    assert set(OPTIONS) == set(contract.split())


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidRequest, match=r"no option 'max_token'; the options are max_tokens, "):
        read_options({"max_token": 5})


def test_a_long_unknown_name_is_cut() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_options({"x" * 10_000: 5})
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("value", [None, [], "a", 5])
def test_options_are_an_object(value: Any) -> None:
    with pytest.raises(InvalidRequest, match='"options" must be an object'):
        read_options(value)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(OPTIONS)), anything))
def test_any_value_is_read_or_refused(values: dict[str, Any]) -> None:
    try:
        read = read_options(values)
    except InvalidRequest:
        return
    assert read.keys() == values.keys()
