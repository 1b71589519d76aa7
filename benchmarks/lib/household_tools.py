"""The intents of Home Assistant as tools, and how right a call is.

Names and descriptions are those of the package home-assistant-intents. A slot is a whole number, a number,
one of a list of values, or a text, as its values in the rows are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from benchmarks.lib.household import HOME, NAMES, Household
from edgeslm.errors import ExportError

INTENT: Final = "intent"
FORM: Final = "Call the function that does what the user says. Use the words of the user as arguments."


def make_tools(household: Household) -> list[dict[str, Any]]:
    """A tool for each intent of the rows, as OpenAI's dialect has it.

    :raises ExportError: the package isn't installed, or the rows have a slot that it doesn't describe.
    """
    try:
        known = json.loads(files("home_assistant_intents").joinpath("intents.json").read_text("utf-8"))
    except (ImportError, OSError) as error:
        raise ExportError(f"This needs the package home-assistant-intents (extra bench): {error}") from None
    schemas = {
        name: _schema_of(schema, {row["fields"].get(name) for row in household.train} - {None})
        for name, schema in household.schema["properties"].items()
    }
    tools = []
    for name in household.schema["properties"][INTENT]["enum"]:
        about = known[name]
        properties = {
            slot: {**schemas[slot], "description": of_slot["description"]}
            for slot, of_slot in about.get("slots", {}).items()
            if slot in schemas
        }
        parameters = {"type": "object", "properties": properties, "additionalProperties": False}
        function = {"name": name, "description": about["description"], "parameters": parameters}
        tools.append({"type": "function", "function": function})
    return tools


def _schema_of(schema: Mapping[str, Any], values: set[str]) -> dict[str, Any]:
    if "enum" in schema:
        return {"type": "string", "enum": schema["enum"]}
    kinds = {_kind_of(value) for value in values}
    if kinds and kinds <= {"integer", "number"}:
        return {"type": "number" if "number" in kinds else "integer"}
    return {"type": "string"}


def _kind_of(value: str) -> str:
    try:
        return "integer" if float(value).is_integer() else "number"
    except ValueError:
        return "string"


def instruction() -> str:
    """The system message: what to do, and what is in the home."""
    devices = "\n".join(f"- {kind}: {', '.join(names)}" for kind, names in NAMES.items())
    places = "\n".join(f"- {kind}: {', '.join(names)}" for kind, names in HOME.items())
    return f"You are a voice assistant for a home. {FORM}\nDevices:\n{devices}\nPlaces:\n{places}"


def is_name_right(call: Mapping[str, Any] | None, fields: Mapping[str, str]) -> bool:
    return call is not None and call["name"] == fields[INTENT]


def is_call_right(call: Mapping[str, Any] | None, fields: Mapping[str, str]) -> bool:
    """Whether name and arguments of a call are those of a row. Numbers are compared as numbers and texts
    without their case; empty arguments count as left out."""
    if call is None or not is_name_right(call, fields):
        return False
    given = {name: _plain(value) for name, value in call["arguments"].items() if value not in ("", None, [])}
    return given == {name: _plain(value) for name, value in fields.items() if name != INTENT}


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    text = str(value).strip().casefold()
    try:
        return f"{float(text):g}"
    except ValueError:
        return text
