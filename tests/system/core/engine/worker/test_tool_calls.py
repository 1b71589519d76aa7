"""Tool calls under a grammar, by a real model: always valid, in the format of the template."""

from __future__ import annotations

import json

import jsonschema
import pytest

from edgeslm.engine.calls import CallRule, Generate, Prompt, Sampling, Text, Tool, Turn
from edgeslm.engine.worker.decoder import Decoder
from edgeslm.engine.worker.tool_format import ToolFormat

ON = {
    "type": "object",
    "properties": {"device": {"enum": ["lamp", "fan"]}, "level": {"type": "integer"}},
    "required": ["device"],
    "additionalProperties": False,
}
TOOLS = (
    Tool("turn_on", json.dumps({"name": "turn_on", "parameters": ON}), json.dumps(ON)),
    Tool("weather", json.dumps({"name": "weather"}), '{"type": "object", "additionalProperties": false}'),
)
NAMES = ("turn_on", "weather")


def asked(text: str, rule: CallRule | None, *, stream: bool = False, **sampling: float) -> Generate:
    prompt = Prompt((Turn("user", (Text(text, cut=True),)),), tools=TOOLS)
    return Generate(prompt, 96, Sampling(**sampling), stream=stream, calls=rule)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_calls_are_valid_whatever_the_model_prefers(decoder: Decoder, seed: int) -> None:
    rule = CallRule(NAMES, most=3, or_text=False)
    output = decoder.generate(asked("Turn on the lamp and the fan", rule, temperature=1.5, seed=seed))
    assert output.calls and output.text == ""
    assert len(output.calls) <= 3
    schemas = {tool.name: json.loads(tool.schema) for tool in TOOLS}
    for call in output.calls:
        jsonschema.validate(json.loads(call.arguments), schemas[call.name])


def test_one_tool_is_called_where_it_is_named(decoder: Decoder) -> None:
    output = decoder.generate(asked("Turn on the lamp", CallRule(("weather",), or_text=False)))
    assert [(call.name, json.loads(call.arguments)) for call in output.calls] == [("weather", {})]
    assert output.finish_reason == "stop"


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_words_or_calls_and_only_words_are_sent(decoder: Decoder, seed: int) -> None:
    pieces: list[str] = []
    call = asked("What is a lamp?", CallRule(NAMES), stream=True, temperature=1.0, seed=seed)
    output = decoder.generate(call, pieces.append)
    assert "".join(pieces) == output.text
    assert output.text or output.calls
    assert "<tool_call>" not in output.text


def test_without_tools_to_call_it_answers_in_words(decoder: Decoder) -> None:
    output = decoder.generate(asked("Turn on the lamp", None))
    assert output.text and not output.calls


def test_a_format_that_begins_with_a_special_token(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    form = ToolFormat('<|im_start|>[{"name": "', '", "arguments": ', "}]", None)
    monkeypatch.setattr(decoder._chat, "tool_format", form)
    output = decoder.generate(asked("Turn on the lamp", CallRule(NAMES, or_text=False)))
    assert next(call.name for call in output.calls) in NAMES
    words = decoder.generate(asked("Say hello", CallRule(NAMES)))
    assert words.text or words.calls


BARE = {
    "type": "object",
    "properties": {
        "room": {"type": "string", "minLength": 1, "maxLength": 12},
        "device": {"enum": ["lamp", "fan"]},
        "level": {"type": "integer", "minimum": 0, "maximum": 100},
        "note": {"type": "string", "maxLength": 8},
        "times": {"type": "array", "items": {"type": "number"}, "maxItems": 3},
        "where": {"type": "object", "properties": {"floor": {"type": ["integer", "null"]}}},
        "on": {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 3}]},
        "only": {"type": "array", "items": {"$ref": "#/$defs/Color"}, "minItems": 1, "maxItems": 1},
    },
    "$defs": {"Color": {"enum": ["red", "blue"]}},
    "required": ["device", "times", "only"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("quote", ["<escape>", "<|im_start|>"], ids=["plain", "special token"])
@pytest.mark.parametrize("seed", range(6))
def test_bare_arguments_are_valid_whatever_the_model_prefers(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, seed: int, quote: str
) -> None:
    """The notation of FunctionGemma, written by a model that doesn't know it."""
    joint = "}<end_function_call><start_function_call>call:"
    form = ToolFormat("<start_function_call>call:", "{", "}<end_function_call>", joint, quote, sorts=seed > 2)
    monkeypatch.setattr(decoder._chat, "tool_format", form)
    tools = (Tool("turn_on", json.dumps({"name": "turn_on"}), json.dumps(BARE)), TOOLS[1])
    prompt = Prompt((Turn("user", (Text("Turn on the lamp and tell the weather", cut=True),)),), tools=tools)
    rule = CallRule(NAMES, most=2, or_text=False)
    call = Generate(prompt, 160, Sampling(temperature=1.5, seed=seed), calls=rule)
    output = decoder.generate(call)
    assert output.text == "" and (output.calls or output.finish_reason == "length")
    schemas = {"turn_on": BARE, "weather": json.loads(TOOLS[1].schema)}
    for made in output.calls:
        jsonschema.validate(json.loads(made.arguments), schemas[made.name])
    if output.finish_reason == "stop":
        assert output.calls
