"""Arguments of tool calls in the notation of FunctionGemma and Gemma 4, ``{name:<escape>text<escape>,n:3}``.

Names stand bare, texts between two quote words, and numbers, booleans and lists as in JSON. A JSON Schema
becomes rules of a Lark grammar, and what was written is read back to JSON. Source: Google's page
"FunctionGemma formatting and best practices".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count
from typing import Any, Final

from edgeslm.errors import InvalidRequest

_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "object": frozenset({"properties", "required"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_TYPES: Final = tuple(_OF_TYPE)
_OWN: Final = frozenset({"type"}).union(*_OF_TYPE.values())
_REFUSED: Final = frozenset(
    {"oneOf", "not", "if", "then", "else", "pattern", "uniqueItems", "prefixItems", "additionalItems"}
    | {"contains", "minContains", "maxContains", "unevaluatedItems", "patternProperties", "propertyNames"}
    | {"minProperties", "maxProperties", "dependentRequired", "dependentSchemas", "dependencies"}
    | {"unevaluatedProperties", "$dynamicRef", "$recursiveRef"}
)
"""Keywords that restrict values and have no rules here; those that say nothing of values are ignored."""
_KINDS: Final[Mapping[type, frozenset[str]]] = {
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    str: frozenset({"string"}),
    type(None): frozenset({"null"}),
    list: frozenset({"array"}),
    dict: frozenset({"object"}),
}
"""Types of JSON that a value has."""
_STRUCTURE: Final = re.compile(r"[:,{}\[\]\s]")
_TEXT_CHARS: Final = 2000
_ITEMS: Final = 64
_DEPTH: Final = 4
"""Depth of values that a schema doesn't describe."""
_NO_VALUE: Final = "no value fits it"


class SchemaRules:
    """Makes the grammar's rules for the arguments of all tools. Equal rules are made once: a grammar has room
    for few different texts.

    :param quote: the word before and after a text. :param literal: writes a text in the grammar.
    :param sorts: names are in alphabetical order, as the template sorts them.
    """

    def __init__(self, quote: str, literal: Callable[[str], str], *, sorts: bool) -> None:
        self._quote, self._literal, self._sorts = quote, literal, sorts
        self._made: dict[str, str] = {}
        self._tool = ""
        self._root: Mapping[str, Any] = {}
        self._references: dict[str, str] = {}
        self._numbers: Iterator[int] = count()
        self.lines: list[str] = []

    def members(self, tool: str, schema: Mapping[str, Any]) -> str:
        """The expression for what is between the braces of a tool's arguments.

        :raises InvalidRequest: the schema has a part that this notation has no rules for.
        """
        self._tool, self._root, self._references = tool, schema, {}
        path = "parameters"
        self._check(schema, path, {"$ref", "allOf", "anyOf"})
        return self._members(schema, path)

    def _rule(self, source: str, *, is_terminal: bool = False) -> str:
        if source not in self._made:
            name = f"arg_{next(self._numbers)}"
            self._made[source] = name.upper() if is_terminal else name
            self.lines.append(f"{self._made[source]}: {source}")
        return self._made[source]

    def _refuse(self, path: str, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"tool {self._tool!r}: {path}: {why}; this model writes calls in a notation of its own"
        )

    def _check(self, schema: Mapping[str, Any], path: str, more: Collection[str] = ()) -> None:
        if found := sorted(schema.keys() & (_REFUSED | set(more))):
            raise self._refuse(f"{path}.{found[0]}", "leave it out")

    def _value(self, schema: Any, path: str, depth: int = 0) -> str:
        schema = {} if schema is True else schema
        if not isinstance(schema, Mapping):
            raise self._refuse(path, _NO_VALUE)
        for key in ("$ref", "allOf", "anyOf"):
            if key in schema and schema.keys() & _OWN:
                raise self._refuse(path, f"{key} stands beside other parts; write them inside")
        if "$ref" in schema:
            return self._referenced(schema["$ref"], path)
        if len(schema.get("allOf", ())) == 1:  # how generators of schemas write a note beside a reference
            return self._value(schema["allOf"][0], path, depth)
        self._check(schema, path, {"allOf"})
        if "anyOf" in schema:
            options = [self._value(one, f"{path}.anyOf", depth + 1) for one in schema["anyOf"]]
            return self._rule(" | ".join(options))
        kinds = schema.get("type") or [kind for kind in _TYPES if schema.keys() & _OF_TYPE[kind]]
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if "const" in schema or "enum" in schema:
            return self._one_of(schema, kinds or _TYPES, path)
        if not kinds:
            return self._any(path, depth)
        return self._rule(" | ".join(self._of_type(kind, schema, path, depth) for kind in kinds))

    def _referenced(self, reference: str, path: str) -> str:
        """The rule of what ``reference`` points to, which may point to itself."""
        from edgeslm.config.json_schemas import target_of  # most schemas have no references

        if reference not in self._references:
            name = self._references[reference] = f"arg_{next(self._numbers)}"
            self.lines.append(f"{name}: {self._value(target_of(reference, self._root), path)}")
        return self._references[reference]

    def _any(self, path: str, depth: int) -> str:
        if depth >= _DEPTH:
            return self._scalar({"type": ["number", "boolean", "null"]})
        return self._value({"anyOf": [{"type": kind} for kind in _TYPES if kind != "object"]}, path, depth)

    def _one_of(self, schema: Mapping[str, Any], kinds: Collection[str], path: str) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        written = [
            self._written(value, path) for value in values if not _KINDS[type(value)].isdisjoint(kinds)
        ]
        if not written:
            raise self._refuse(path, _NO_VALUE)
        return self._rule(" | ".join(map(self._literal, written)))

    def _of_type(self, kind: str, schema: Mapping[str, Any], path: str, depth: int) -> str:
        if kind == "object":
            return f'"{{" {self._members(schema, path)} "}}"'
        if kind == "array":
            return self._array(schema, path, depth)
        if kind == "string":
            return self._text(schema, path)
        return self._scalar({key: schema[key] for key in _OF_TYPE[kind] if key in schema} | {"type": kind})

    def _scalar(self, schema: Mapping[str, Any]) -> str:
        return self._rule(f"%json {json.dumps(schema)}")

    def _limits(self, schema: Mapping[str, Any], path: str, noun: str, usual: int) -> tuple[int, int]:
        least = schema.get(f"min{noun}", 0)
        most = schema.get(f"max{noun}", max(usual, least))
        if least > most:
            raise self._refuse(path, _NO_VALUE)
        return least, most

    def _text(self, schema: Mapping[str, Any], path: str) -> str:
        least, most = self._limits(schema, path, "Length", _TEXT_CHARS)
        quote = self._literal(self._quote)
        if most < 1:
            return f"{quote} {quote}"
        no = re.escape(self._quote).replace("/", "\\/")
        inner = self._rule(
            f"/(?s:.{{{max(1, least)},{most}}})/ & ~/(?s:.*){no}(?s:.*)/", is_terminal=True
        )  # a terminal never matches an empty text
        return f"{quote} {inner}{'' if least else '?'} {quote}"

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> str:
        least, most = self._limits(schema, path, "Items", _ITEMS)
        if most < 1:
            return '"[" "]"'
        one = self._value(schema.get("items", True), f"{path}.items", depth + 1)
        more = f' ("," {one}){{{max(0, least - 1)},{most - 1}}}' if most > 1 else ""  # a grammar has no {0,0}
        items = one + more
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _members(self, schema: Mapping[str, Any], path: str) -> str:
        """Names and values of an object, each name at most once, in the order of the template."""
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        if missing := sorted(required - properties.keys()):
            raise self._refuse(path, f"{missing[0]!r} is required and not described")
        names = sorted(properties, key=str.lower) if self._sorts else list(properties)
        pairs = []
        for name in names:
            if not name or _STRUCTURE.search(name) or self._quote in name:
                raise self._refuse(path, f"the name {name!r} has a sign of the notation")
            value = self._value(properties[name], f"{path}.{name}")
            pairs.append(self._rule(f"{self._literal(f'{name}:')} {value}"))
        follow = '""'
        starts: list[str] = []
        is_empty = True
        for name, pair in reversed(list(zip(names, pairs, strict=True))):
            after = self._rule(follow)
            if name in required:
                starts, is_empty = [f"{pair} {after}"], False
                follow = f'"," {pair} {after}'
            else:
                starts.append(f"{pair} {after}")
                follow = f'("," {pair})? {after}'
        if not starts:
            return '""'
        whole = self._rule(" | ".join(starts))
        return f"{whole}?" if is_empty else whole

    def _written(self, value: Any, path: str) -> str:
        """A value of ``enum`` or ``const``."""
        if isinstance(value, str):
            if self._quote in value:
                raise self._refuse(path, f"{value!r} has a sign of the notation")
            return f"{self._quote}{value}{self._quote}"
        if isinstance(value, list | dict):
            raise self._refuse(path, "enum and const have texts, numbers and booleans only")
        return json.dumps(value)


class Reader:
    """Reads arguments in this notation. :param quote: the word before and after a text."""

    def __init__(self, text: str, quote: str) -> None:
        self._text, self._quote, self.at = text, quote, 0

    def members(self) -> dict[str, Any]:
        """Reads names and values up to the closing brace, which is read too.

        :raises ValueError: the text ends before, or isn't in this notation.
        """
        found: dict[str, Any] = {}
        if self._take("}"):
            return found
        while True:
            name = self._quoted() if self._take(self._quote) else self._until(":")
            if not self._take(":"):
                raise ValueError("a name without a value")
            found[name] = self._value()
            if self._take("}"):
                return found
            if not self._take(","):
                raise ValueError("an object that doesn't end")

    def _value(self) -> Any:
        if self._take(self._quote):
            return self._quoted()
        if self._take("{"):
            return self.members()
        if self._take("["):
            items: list[Any] = []
            if self._take("]"):
                return items
            while True:
                items.append(self._value())
                if self._take("]"):
                    return items
                if not self._take(","):
                    raise ValueError("a list that doesn't end")
        word = self._until(",}]")
        return None if word == "None" else json.loads(word)

    def _take(self, word: str) -> bool:
        found = self._text.startswith(word, self.at)
        self.at += len(word) if found else 0
        return found

    def _quoted(self) -> str:
        end = self._text.index(self._quote, self.at)
        begin, self.at = self.at, end + len(self._quote)
        return self._text[begin:end]

    def _until(self, ends: str) -> str:
        begin = self.at
        while self.at < len(self._text) and self._text[self.at] not in ends:
            self.at += 1
        if self.at == len(self._text):
            raise ValueError("cut off")
        return self._text[begin : self.at]
