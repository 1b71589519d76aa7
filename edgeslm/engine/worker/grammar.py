"""Guided decoding: converts a grammar for onnxruntime-genai, working around its bugs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from edgeslm.engine.calls import Guide

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
