"""JSON Schemas of ``extract`` tasks: checks of the schema, cost limits, and validation of values.

A schema comes from the configuration or, if allowed, from a sender. Regular expressions in a schema are
matched in linear time. Some keywords, such as ``multipleOf``, have maximum values, since for larger values
the inference engine would build an automaton of several gigabytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from edgeslm.config.patterns import PatternError, compiled_size, make_matcher
from edgeslm.config.yaml_source import Path

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

Fault = tuple[Path, str]

MOST_MULTIPLES: Final = 10_000
"""Maximum sum of the different ``multipleOf`` values in a schema, and maximum least common multiple of the
``multipleOf`` values that apply to the same JSON value. Decimal points are removed before the calculation, so
that 0.25 counts as 25. The limit is needed, since the inference engine builds an automaton with a state for
each remainder. Cost of this automaton, measured with onnxruntime-genai 0.18 on a busy machine: almost no time
for a ``multipleOf`` of 9,973; 2 s and 26 MB for 99,991; 8 s and 210 MB for 988,027; 12 s and 125 MB for a
schema with forty different ``multipleOf`` values of about 9,900."""
MOST_ITEMS: Final = 1_000
"""Maximum value of ``minItems``. The inference engine's grammar lists each item: for a ``minItems`` of
100,000, the grammar takes 23 MB of memory; for ten million, it takes 3 GB."""
PATTERN_SIZE: Final = 40_000
"""Maximum total compiled size of the regular expressions in a sender's schema, in units of 100 bytes."""

_COMBINING: Final = frozenset({"anyOf", "oneOf", "$ref"})
_CONSTRAINING: Final = frozenset(
    {"multipleOf", "properties", "items", "prefixItems", "additionalProperties", "patternProperties"}
)
_LITERAL: Final = frozenset({"enum", "const", "default", "examples"})
"""Keywords that contain JSON values instead of subschemas."""
_NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose value is an object with arbitrary names as keys."""
_OLD_DIALECT: Final = re.compile(r"draft-0[34]")
"""Drafts of JSON Schema in which ``$id`` is called ``id``."""
_UNFOLLOWED: Final = ("unevaluatedProperties", "unevaluatedItems", "$dynamicRef")


def schema_faults(path: Path, schema: dict[str, Any], pattern_size: float = math.inf) -> Iterator[Fault]:
    """Yields the faults of a schema: it isn't valid JSON Schema, its ``type`` isn't ``object``, or the engine
    would need too much memory or time for it.

    :param pattern_size: maximum total compiled size of the regular expressions, in units of 100 bytes.
    """
    from jsonschema import Draft202012Validator  # lazy: only needed for extract tasks

    if schema.get("type") != "object":
        yield (*path, "type"), "must be object, with the fields in properties"
    found = False
    for error in _schema_validator_class()(Draft202012Validator.META_SCHEMA).iter_errors(schema):
        found = True
        yield (*path, *error.absolute_path), f"not JSON Schema: {_short(error.message)}"
    if not found:
        yield from _reference_faults(path, schema, schema)
        if sum(_units(schema, schema, set())) > MOST_MULTIPLES:
            yield path, f"the sum of its multipleOf, written without decimal points, exceeds {MOST_MULTIPLES}"
        yield from pattern_faults(path, schema, pattern_size)
        yield from _cost_faults(path, schema, schema)


def _short(message: str) -> str:
    return message if len(message) <= 200 else message[:197] + "..."


def _children(schema: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(schema, dict):
        return schema.items()
    return enumerate(schema) if isinstance(schema, list) else ()


def pattern_faults(path: Path, schema: Any, most: float = math.inf) -> Iterator[Fault]:
    """Yields the faults of a schema's regular expressions: they can't be matched in linear time, or are too
    large. ``most`` is the maximum total compiled size of all expressions, in units of 100 bytes."""
    size = 0
    for place, pattern in _patterns(path, schema):
        size += compiled_size(pattern)
        if size > most:
            yield place, "the schema's regular expressions are too large: allow fewer repetitions"
            return
        try:
            make_matcher(pattern)
        except PatternError as error:
            yield place, f"{_short(repr(pattern))} can't be matched here: {error}"


def patterns_size(schema: Any) -> int:
    """Total compiled size of a schema's regular expressions, in units of 100 bytes."""
    return sum(compiled_size(pattern) for _, pattern in _patterns((), schema))


def _patterns(path: Path, schema: Any) -> Iterator[tuple[Path, str]]:
    for key, value in _children(schema):
        if key == "pattern" and isinstance(value, str):
            yield (*path, key), value
        elif key == "patternProperties" and isinstance(value, dict):
            yield from (((*path, key), pattern) for pattern in value)
        yield from _patterns((*path, key), value)


def _cost_faults(
    path: Path, schema: Any, root: dict[str, Any], *, has_names: bool = False
) -> Iterator[Fault]:
    """Yields keywords whose value would make the engine's grammar too large, and keywords that the engine
    doesn't support.

    :param has_names: whether the keys of ``schema`` are names of subschemas instead of keywords.
    """
    if isinstance(schema, dict) and not has_names:
        if (least := schema.get("minItems")) is not None and _is_above(least, MOST_ITEMS):
            yield (*path, "minItems"), f"must be {MOST_ITEMS} at most"
        if _combines(schema) and math.lcm(*_units(schema, root, set())) > MOST_MULTIPLES:
            yield path, f"its multipleOf have a least common multiple above {MOST_MULTIPLES} together"
        name = "id" if _OLD_DIALECT.search(str(root.get("$schema"))) else "$id"
        if name in schema and schema is not root:  # it changes what references below it point to
            yield (*path, name), "can't be followed here: only the whole schema may have one"
        for name in _UNFOLLOWED:
            if name in schema:
                yield (*path, name), "can't be followed here: use additionalProperties, items or $ref"
    for key, value in _children(schema):
        is_keyword = isinstance(schema, dict) and not has_names
        if not (is_keyword and key in _LITERAL):
            yield from _cost_faults((*path, key), value, root, has_names=is_keyword and key in _NAMED)


def _is_above(value: Any, most: int) -> bool:
    return isinstance(value, int | float) and value > most


def _unit(schema: Mapping[str, Any]) -> int | None:
    """The value of ``multipleOf`` without its decimal point; None if the schema has no ``multipleOf``."""
    value = schema.get("multipleOf")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and value > MOST_MULTIPLES:
        return value
    number = Decimal(str(value)).normalize()
    _, digits, exponent = number.as_tuple()
    if isinstance(exponent, int) and exponent > 0:
        return int(number) if number.adjusted() < 10 else MOST_MULTIPLES + 1
    return int("".join(map(str, digits)))


def _combines(schema: Mapping[str, Any]) -> bool:
    """Whether several parts of ``schema`` can constrain the same JSON value."""
    alternatives = len(schema.keys() & _COMBINING)
    return "allOf" in schema or alternatives + bool(schema.keys() & _CONSTRAINING) > 1


def _units(schema: Any, root: dict[str, Any], seen: set[int]) -> set[int]:
    """The ``multipleOf`` values, without decimal points, that a subschema contains or refers to."""
    if id(schema) in seen:
        return set()
    seen.add(id(schema))
    found: set[int] = set()
    if isinstance(schema, dict):
        if (unit := _unit(schema)) is not None:
            found.add(unit)
        if isinstance(reference := schema.get("$ref"), str):
            found |= _units(target_of(reference, root), root, seen)
    for _, value in _children(schema):
        found |= _units(value, root, seen)
    return found


def _reference_faults(path: Path, schema: Any, root: dict[str, Any]) -> Iterator[Fault]:
    """References must stay inside the schema: the node never downloads schemas."""
    for key, value in _children(schema):
        if key == "$ref" and isinstance(value, str) and target_of(value, root) is None:
            yield (*path, key), f"{value!r} points to nothing inside this schema: write it as #/$defs/NAME"
        elif isinstance(value, dict | list):
            yield from _reference_faults((*path, key), value, root)


def target_of(reference: str, root: Any) -> Any:
    """The subschema that a reference points to; None if the reference points to nothing."""
    if reference == "#":
        return root
    if not reference.startswith("#/") or "%" in reference:  # other libraries decode %XX
        return None
    target, has_names = root, False
    for part in reference[2:].split("/"):
        part = part.replace("~1", "/").replace("~0", "~")
        if part in _LITERAL and not has_names:
            return None
        has_names = part in _NAMED and not has_names
        if isinstance(target, list) and part.isdecimal() and int(part) < len(target):
            target = target[int(part)]
        elif isinstance(target, dict) and part in target:
            target = target[part]
        else:
            return None
    return target


# Values


def make_validator(schema: Mapping[str, Any]) -> Validator:
    """A JSON Schema validator whose run time is linear in the size of the checked value. It fetches no
    schema from another address."""
    from referencing import Registry

    return _validator_class()(dict(schema), registry=Registry())  # type: ignore[no-any-return]


@cache
def _validator_class() -> Any:
    return _extended(
        {
            "pattern": _check_pattern,
            "patternProperties": _check_pattern_properties,
            "additionalProperties": _check_additional_properties,
            "uniqueItems": _check_unique_items,
        }
    )


@cache
def _schema_validator_class() -> Any:
    """The validator class that checks schemas against the metaschema. This class uses Python's ``re``, since
    the metaschema's regular expressions can't take exponential time."""
    return _extended({"uniqueItems": _check_unique_items})


def _extended(keywords: Mapping[str, Any]) -> Any:
    from jsonschema import Draft202012Validator, validators  # lazy: few nodes need it

    made = validators.extend(Draft202012Validator, keywords)  # type: ignore[no-untyped-call]
    # The library's evolve switches to the class of a subschema's ``$schema``, which lacks these keywords.
    made.evolve = _evolve
    return made


def _evolve(validator: Any, **changes: Any) -> Any:
    kind = type(validator)
    for field in kind.__attrs_attrs__:
        if field.init:
            changes.setdefault(field.alias, getattr(validator, field.name))
    return kind(**changes)


def _check_pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Exception]:
    if isinstance(value, str) and not make_matcher(pattern)(value):
        yield _error(f"{_short(repr(value))} does not match {pattern!r}")


def _check_pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator[Exception]:
    if isinstance(value, dict):
        for pattern, of_matching in patterns.items():
            matches = make_matcher(pattern)
            for name in filter(matches, value):
                yield from validator.descend(value[name], of_matching, path=name, schema_path=pattern)


def _check_additional_properties(validator: Any, others: Any, value: Any, schema: Any) -> Iterator[Exception]:
    if not isinstance(value, dict):
        return
    matchers = [make_matcher(pattern) for pattern in schema.get("patternProperties", ())]
    known = schema.get("properties", {})
    for name in value:
        if name in known or any(matches(name) for matches in matchers):
            continue
        if others is False:
            yield _error(f"it has a field {_short(repr(name))} that the schema doesn't name")
        else:
            yield from validator.descend(value[name], others, path=name)


def _check_unique_items(validator: Any, wanted: Any, value: Any, schema: Any) -> Iterator[Exception]:
    if wanted and isinstance(value, list):
        texts = {json.dumps(_plain(item), sort_keys=True) for item in value}
        if len(texts) < len(value):
            yield _error("it has an item twice")


def _plain(value: Any) -> Any:
    """Normalizes values that JSON Schema treats as equal, such as 1.0 to 1."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _error(message: str) -> Exception:
    from jsonschema import ValidationError

    return ValidationError(message)
