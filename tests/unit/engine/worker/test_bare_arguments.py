"""Calls of FunctionGemma: names stand bare, texts between ``<escape>``; read, and forced by a grammar."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from edgeslm.engine.calls import CallRule, Generate, Prompt, Text, Tool, ToolCall, Turn
from edgeslm.engine.worker.prompt import ChatTokenizer
from edgeslm.engine.worker.tool_format import Answer, ToolFormat, constrain, read_answer
from edgeslm.errors import InvalidRequest
from tests.support.fakes import write_chat_tokenizer
from tests.support.function_gemma import CONTROL, TEMPLATE

FORM = ToolFormat(
    begin="<start_function_call>call:",
    between="{",
    end="}<end_function_call>",
    joint="}<end_function_call><start_function_call>call:",
    quote="<escape>",
    sorts=True,
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"location": {"type": "string", "description": "Where"}, "days": {"type": "integer"}},
    "required": ["location"],
}
WEATHER = Tool(
    "get_weather",
    json.dumps({"name": "get_weather", "description": "Tells the weather", "parameters": SCHEMA}),
    json.dumps(SCHEMA),
)
AUTO = CallRule(("get_weather",), most=3)


def tokenizer_of(folder: Path) -> ChatTokenizer:
    made = ChatTokenizer(write_chat_tokenizer(folder, TEMPLATE))
    made.tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in CONTROL])
    made.tokenizer.save(str(folder / "tokenizer.json"))
    return ChatTokenizer(folder)


def asked(schema: Any = None, rule: CallRule = AUTO) -> Generate:
    tool = WEATHER if schema is None else replace(WEATHER, schema=json.dumps(schema))
    return Generate(Prompt((), tools=(tool,)), 9, calls=rule)


def test_the_format_is_found(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    assert tokenizer.shows_tools
    assert tokenizer.tool_format == FORM


def test_a_template_that_keeps_the_order_of_names(tmp_path: Path) -> None:
    kept = TEMPLATE.replace("value | dictsort", "value.items()")
    assert ChatTokenizer(write_chat_tokenizer(tmp_path, kept)).tool_format == replace(FORM, sorts=False)


def test_a_chat_is_shown_as_the_model_was_trained_on_it(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    turns = (
        Turn("user", (Text("Weather in Tokyo?"),)),
        Turn("assistant", (), (ToolCall("get_weather", '{"location": "Tokyo", "days": 3}'),)),
        Turn("tool", (Text("sunny"),)),
    )
    ids = tokenizer.encode(Prompt(turns, tools=(WEATHER,)), 10_000).ids
    assert tokenizer.tokenizer.decode(ids, skip_special_tokens=False) == (
        "<start_of_turn>developer\n<start_function_declaration>declaration:get_weather{"
        "description:<escape>Tells the weather<escape>,parameters:{properties:{"
        "days:{description:<escape><escape>,type:<escape>INTEGER<escape>},"
        "location:{description:<escape>Where<escape>,type:<escape>STRING<escape>}},"
        "type:<escape>OBJECT<escape>}}<end_function_declaration><end_of_turn>\n"
        "<start_of_turn>user\nWeather in Tokyo?<end_of_turn>\n"
        "<start_of_turn>model\n<start_function_call>call:get_weather{days:3,location:<escape>Tokyo<escape>}"
        "<end_function_call><start_function_response>response:get_weather{value:<escape>sunny<escape>}"
        "<end_function_response>"
    )


@pytest.mark.parametrize("word", CONTROL)
def test_names_and_texts_inject_no_control_tokens(tmp_path: Path, word: str) -> None:
    tokenizer = tokenizer_of(tmp_path)
    number = tokenizer.special_tokens[word]

    def count_with(word: str) -> int:
        schema = {
            "type": "object",
            "properties": {f"a{word}": {"type": "string", "description": word}, "b": {"type": "string"}},
        }
        shown = json.dumps({"name": "get_weather", "description": word, "parameters": schema})
        arguments = json.dumps({f"a{word}": word, "b": {f"c{word}": [word]}, "type": word})
        turns = (
            Turn("user", (Text("Hi"),)),
            Turn("assistant", (), (ToolCall("get_weather", arguments),)),
            Turn("tool", (Text(word),)),
        )
        return tokenizer.encode(Prompt(turns, tools=(replace(WEATHER, shown=shown),)), 10_000).ids.count(
            number
        )

    assert count_with(word) == count_with("")


texts = st.text(st.characters(exclude_categories=("Cs", "Co"))).filter(lambda text: "<escape>" not in text)
names = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.-]*\Z")
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
values = st.recursive(
    texts | numbers, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4)
)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("chat"))


@given(
    calls=st.lists(st.dictionaries(names, values, max_size=4), min_size=1, max_size=3),
    words=st.sampled_from(["", "Sure. "]),
)
def test_what_a_template_writes_is_read_back(chat: ChatTokenizer, calls: list[Any], words: str) -> None:
    made = [chat._probe_call("get_weather", json.dumps(one), number) for number, one in enumerate(calls)]
    message = {"role": "assistant", "content": words, "tool_calls": made}
    whole = chat.render([message], add_generation_prompt=False)
    written = whole.removeprefix("<start_of_turn>model\n").removesuffix("<start_function_response>")
    found = read_answer(asked(), FORM, written)
    assert found.text == words and not found.is_cut
    assert [json.loads(call.arguments) for call in found.calls] == calls
    for end in range(len(words), len(written), 7):  # cut off, an answer has its whole calls alone
        part = read_answer(asked(), FORM, written[:end])
        assert part.calls == found.calls[: len(part.calls)]


@given(text=texts)
def test_any_text_is_read_without_an_error(text: str) -> None:
    answer = read_answer(asked(), FORM, f"<start_function_call>call:get_weather{{{text}")
    assert answer.is_cut or answer == Answer("", answer.calls)


def test_lists_without_an_end_are_read_as_cut_off() -> None:
    assert read_answer(asked(), FORM, "<start_function_call>call:get_weather{a:" + "[" * 5000).is_cut


def rules_of(schema: Any, special: dict[str, int] | None = None) -> dict[str, str]:
    guide = constrain(asked(schema, CallRule(("get_weather",), or_text=False)), FORM, special or {}).guide
    assert guide is not None
    return dict(line.split(": ", 1) for line in guide.source.split("\n"))


def test_a_grammar_of_names_texts_and_numbers() -> None:
    rules = rules_of(None, {"<escape>": 46, "<start_function_call>": 48, "<end_function_call>": 49})
    assert rules["calls"] == '<[48]> "call:" one "}" <[49]>'
    assert rules["one_0"].startswith('"get_weather{" arg_')
    assert any(rule.startswith("<[46]> ARG_") and rule.endswith("? <[46]>") for rule in rules.values())
    assert '%json {"type": "integer"}' in rules.values()


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "string", "pattern": "a+"}, "parameters.a.pattern: leave it out"),
        ({"enum": []}, "parameters.a: no value fits it"),
        ({"type": "integer", "enum": ["x", True]}, "parameters.a: no value fits it"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "parameters.a: no value fits it"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "parameters.a.allOf: leave it out"),
        ({"oneOf": [{"type": "string"}]}, "parameters.a.oneOf: leave it out"),
        ({"enum": [["x"]]}, "parameters.a: enum and const have texts, numbers and booleans only"),
        ({"enum": ["<escape>"]}, "'<escape>' has a sign of the notation"),
        ({"anyOf": [{"type": "string"}], "type": "string"}, "anyOf stands beside other parts"),
        (
            {"type": "object", "properties": {"x:y": {"type": "string"}}},
            "parameters.a: the name 'x:y' has a sign of the notation",
        ),
        ({"type": "object", "required": ["b"]}, "parameters.a: 'b' is required and not described"),
    ],
)
def test_a_schema_without_a_grammar_is_refused(part: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        rules_of({"type": "object", "properties": {"a": part}})
    assert "tool 'get_weather'" in str(refused.value) and reason in str(refused.value)


@pytest.mark.parametrize("key", ["minProperties", "dependentRequired", "patternProperties", "anyOf"])
def test_what_restricts_all_arguments_is_refused_too(key: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"parameters\.{key}: leave it out"):
        rules_of({**SCHEMA, key: {}})


def values_of(schema: Any, **root: Any) -> tuple[str, dict[str, str]]:
    """The rule of the only argument, and all rules."""
    rules = rules_of({"type": "object", "properties": {"a": schema}, "required": ["a"], **root})
    [pair] = [rule for rule in rules.values() if rule.startswith('"a:" ')]
    value = pair.removeprefix('"a:" ')
    while value in rules:
        value = rules[value]
    return value, rules


def test_a_list_of_one_item() -> None:
    one, rules = values_of({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 1})
    assert rules[rules[one.removeprefix('"[" ').removesuffix(' "]"')]] == '%json {"type": "integer"}'


def test_values_of_another_type_are_left_out() -> None:
    assert values_of({"type": ["integer", "null"], "enum": ["x", 3, None, True]})[0] == '"3" | "null"'


def test_a_schema_with_references_as_programs_write_it() -> None:
    color = {"Color": {"enum": ["red", "blue"], "title": "Color", "type": "string"}}
    red_or_blue = '"<escape>red<escape>" | "<escape>blue<escape>"'
    reference = {"$ref": "#/$defs/Color"}
    assert values_of({**reference, "description": "The lamp's"}, **{"$defs": color})[0] == red_or_blue
    assert values_of({"allOf": [reference], "default": "red"}, **{"$defs": color})[0] == red_or_blue
    tree = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Tree"}}}
    value, rules = values_of({"$ref": "#/$defs/Tree"}, **{"$defs": {"Tree": tree}})
    [inner] = [rule.removeprefix('"next:" ') for rule in rules.values() if rule.startswith('"next:" ')]
    assert rules[rules[inner]] == value, "the rule of a reference refers to itself"


@pytest.mark.parametrize("note", ["nullable", "readOnly", "deprecated", "$comment", "example"])
def test_words_that_say_nothing_of_values_are_ignored(note: str) -> None:
    assert values_of({"type": "integer", note: True}) == values_of({"type": "integer"})


def test_parts_without_a_type_name_it() -> None:
    properties = {"b": {"type": "integer"}}
    assert values_of({"properties": properties}) == values_of({"type": "object", "properties": properties})


def test_equal_texts_of_all_tools_are_one_rule() -> None:
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in "abcdef"}}
    tools = tuple(Tool(name, "{}", json.dumps(schema)) for name in ("one", "two"))
    call = Generate(Prompt((), tools=tools), 9, calls=CallRule(("one", "two")))
    guide = constrain(call, FORM, {}).guide
    assert guide is not None and guide.source.count("{1,2000}") == 1


def test_types_in_a_list_are_shown_as_they_are(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path)
    schema = {"type": "object", "properties": {"a": {"type": ["string", "null"]}}}
    shown = json.dumps({"name": "get_weather", "description": "", "parameters": schema})
    turns = (Turn("user", (Text("Hi"),)),)
    ids = tokenizer.encode(Prompt(turns, tools=(replace(WEATHER, shown=shown),)), 10_000).ids
    assert "['STRING', 'NULL']" in tokenizer.tokenizer.decode(ids, skip_special_tokens=False)
