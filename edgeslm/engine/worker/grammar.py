"""Guided decoding: converts a grammar for onnxruntime-genai, working around its bugs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from edgeslm.engine.calls import Guide
from edgeslm.errors import InvalidRequest

MOST_FORCED: Final = 256
"""Maximum number of consecutive forced tokens; a cache gets extra room for at most this many tokens. A token
is forced if the grammar leaves no choice. If a schema can force more consecutive tokens than this maximum,
forcing is disabled."""
_SCALAR: Final = {"null": 4, "boolean": 5, "integer": 24, "number": 24, "string": 2}
"""Maps each JSON type to the length, in characters, of the longest value that a schema can force. With a
minimum and a maximum, a schema can force all characters of a number. Of a string, a schema can force only the
two quotes."""
_HARMLESS: Final = frozenset(
    {"type", "title", "description", "default", "examples", "x-guidance", "$schema", "$id"}
    | {"minLength", "maxLength", "minItems", "maxItems"}
)
"""Schema keys that don't force any characters by themselves."""
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_LARGEST: Final = 10**15
"""If a schema has a bound of this magnitude or more, the number of forced characters isn't estimated, since a
grammar writes large numbers in full (1e300 has 301 digits)."""
_AT: Final = re.compile(r"at (\d+)\(\d+\): (?:failed to compile JSON schema: )?")
_RULE: Final = re.compile(r'(?:one_\d+: "([\w.-]+)|json: ).*?%json ')
"""The line of a tool in a grammar (``tool_format.grammar_of``), with its name; or of an answer in JSON."""
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions"})
"""Schema keys whose value is an object with arbitrary names as keys."""
_UNCOMPILED: Final = "Error creating grammar: "
_TOO_LARGE: Final = re.compile(r"lexer (?:error|precomp)|parser error|too (?:many|big|complex)", re.I)


def runtime_grammar(guide: Guide) -> tuple[str, str]:
    """Converts a guide to the kind and source of a grammar for the runtime; if the source has non-ASCII text,
    the grammar disables forced tokens.

    The library llguidance tokenizes the text that a grammar forces. For a token that is only part of a
    character, onnxruntime-genai gives llguidance U+FFFD, so the forced token breaks the grammar ("doesn't
    satisfy the grammar; forced bytes"). ASCII grammars keep forced tokens, since they save steps.
    """
    if _can_force(guide):
        return guide.kind, guide.source
    unforced = '%llguidance {"no_forcing": true}\n'
    if guide.kind == "json_schema":
        return "lark_grammar", f"{unforced}start: %json {guide.source}"
    return guide.kind, unforced + guide.source if guide.kind == "lark_grammar" else guide.source


def longest_forced(guide: Guide) -> int:
    """Upper bound of the number of consecutive forced tokens; 0, which disables forcing, if the bound is
    unknown or above ``MOST_FORCED``.

    The runtime appends forced tokens without checking the end of its buffers (``Generator::ComputeLogits`` in
    0.18). Forcing is therefore disabled unless the cache has room for as many tokens as the upper bound.
    """
    if guide.kind != "json_schema" or not _can_force(guide):
        return 0
    try:
        longest = _forced(json.loads(guide.source))
    except (ValueError, TypeError, AttributeError, RecursionError):  # the runtime reports bad schemas
        return 0
    return longest if longest is not None and longest <= MOST_FORCED else 0


def grammar_error(guide: Guide, error: Exception) -> InvalidRequest | None:
    """Why the runtime can't compile or follow a grammar: which schema, which part of it, and what to do. None
    for an error that isn't the schema's."""
    text = str(error)
    if _TOO_LARGE.search(text.partition("<state>")[0]):
        found = map(_RULE.match, runtime_grammar(guide)[1].split("\n"))
        names = [rule[1] for rule in found if rule and rule[1] and '"pattern' in rule.string]
        of = f" of {', '.join(f'tool {name!r}' for name in names)}" if names else ""
        shorter = "use shorter regular expressions with fewer repetitions"
        return InvalidRequest(f"the schema{of} is too large for a grammar: {shorter}")
    if not text.startswith(_UNCOMPILED):
        return None
    reason = text.removeprefix(_UNCOMPILED).split("\n")[0]
    where, source = "the schema", guide.source if guide.kind == "json_schema" else ""
    if at := _AT.match(reason):
        reason = reason[at.end() :]
        rule = _RULE.match(runtime_grammar(guide)[1].split("\n")[int(at[1]) - 1])
        if rule is not None:
            where = f"tool {rule[1]!r}: its parameters" if rule[1] else where
            source = rule.string[rule.end() :]
    try:
        return InvalidRequest(f"{where}: {_explained(reason, json.loads(source))}")
    except ValueError:  # a grammar of another kind
        return InvalidRequest(f"the {guide.kind} can't be compiled to a grammar: {reason[:200]}")


def _explained(reason: str, schema: Any) -> str:
    """Why a schema can't be a grammar, with the part that is the reason."""
    if reason.startswith("Unimplemented keys: "):
        key = reason.partition('"')[2].partition('"')[0]
        return f"{_path_of(schema, key)}: the engine's grammars don't have {key}; leave it out"
    if reason.startswith("Unknown format: "):
        name = reason.partition(": ")[2]
        path = _path_of(schema, "format", name)
        return f"{path}: the engine's grammars have no format {name!r}; leave it out, or write a pattern"
    if reason.startswith("oneOf"):
        return f"{_path_of(schema, 'oneOf')}: alternatives that overlap can't be a grammar; write anyOf"
    if reason.startswith("Unsatisfiable schema: "):
        return f"no value fits it ({reason.partition(': ')[2]}); change that part"
    return f"it can't be a grammar ({reason[:200]}); simplify that part"


def _path_of(schema: Any, key: str, value: Any = None) -> str:
    """The dotted path of the first part of a schema with this keyword, and this value if one is given; the
    keyword alone if there is none."""
    left: list[tuple[str, Any, bool]] = [("", schema, False)]
    while left:
        path, part, has_names = left.pop()
        if isinstance(part, Mapping) and not has_names and key in part and value in (None, part[key]):
            return f"{path}{key}"
        below = part.items() if isinstance(part, Mapping) else enumerate(part)
        left += [
            (f"{path}{name}.", child, not has_names and name in _NAMED)
            for name, child in below
            if isinstance(child, Mapping | list)
        ]
    return key


def _can_force(guide: Guide) -> bool:
    return guide.source.isascii() and "\\u" not in guide.source


def _forced(schema: Any) -> int | None:
    """Upper bound of the number of characters that a schema can force; it is also a bound of the number of
    forced tokens, since each token has at least one character.

    The result is None if the bound is unknown, as for patterns, references, merged schemas, and required
    properties that aren't described.
    """
    if not isinstance(schema, Mapping):
        return 0 if schema is False else _SCALAR["number"]
    kinds = schema.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    parts: list[int | None] = [max(_SCALAR.get(kind, 2) for kind in kinds)]
    for key, value in schema.items():
        if key == "const":
            parts.append(len(json.dumps(value)))
        elif key == "enum":
            parts.append(max(len(json.dumps(one)) for one in value))
        elif key == "properties":
            parts += [len(json.dumps(name)) + 2 for name in value]
            parts += map(_forced, value.values())
        elif key in ("anyOf", "oneOf", "prefixItems"):
            parts += map(_forced, value)
        elif key == "items":
            one, most = _forced(value), schema.get("maxItems")
            parts.append(None if one is None or most is None else (one + 1) * most)
        elif not _is_harmless(key, value, schema, kinds):
            return None
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _is_harmless(key: str, value: Any, schema: Mapping[str, Any], kinds: Any) -> bool:
    """Whether a schema key forces no characters, apart from those that ``_forced`` counts for other keys."""
    if key == "required":
        return set(value) <= set(schema.get("properties", ()))
    if key == "additionalProperties":
        return isinstance(value, bool)
    if key in _BOUNDS:
        return "number" not in kinds and isinstance(value, int) and abs(value) < _LARGEST
    return key in _HARMLESS
