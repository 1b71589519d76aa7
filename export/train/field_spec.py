"""Field specification: decides which fields are extracted as spans and which values are learned as classes.

A value that is in its text is extracted as a span. Other values (``state: closed`` for "is it shut?"), and
those that the schema fixes, become classes if enough rows have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgeslm.bundle.learned_task import LearnedField
from edgeslm.bundle.spans import Place, find_places, is_fixed, negate, span_types, types_of
from edgeslm.config.loader import Task as TaskSection
from edgeslm.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

_SCALARS: Final = frozenset({"string", "integer", "number", "boolean"})
_FEWEST_OF_VALUE: Final = 3
"""Minimum number of rows that must have a value before it becomes a class; ignored if the schema fixes the
field's values."""
_ROOM: Final = 2
"""Maximum length of a span, as a multiple of the longest span in the rows."""
_LEAST_ROOM: Final = 20


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """Training rows of an extract task, and the folds for evaluating methods. ``groups`` has the group of
    each row, or ""; without it, no row has one."""

    name: str
    section: TaskSection
    texts: Sequence[str]
    fields: Sequence[Mapping[str, Any]]
    folds: Sequence[tuple[Integers, Integers]]
    instruction: str
    groups: Sequence[str] = ()

    def groups_of(self, rows: Integers) -> list[str]:
        return [self.groups[row] for row in rows.tolist()] if self.groups else []

    @property
    def schema(self) -> dict[str, Any]:
        return dict(self.section.output_schema or {})

    @property
    def learned(self) -> dict[str, Any]:
        """Those manifest fields of the task that don't depend on the training method."""
        return {
            "task": self.name,
            "kind": "extract",
            "output_schema": self.schema,
            "verbatim": self.section.verbatim,
            "rows": len(self.texts),
        }


@dataclass(frozen=True, slots=True)
class Aim:
    """Training target of a row's field. ``option`` is the index of the field's class, None if nothing is
    learned from the row. ``places`` are all spans of the text in which the field's value occurs."""

    option: int | None
    places: Sequence[Place] = ()


def pointing_fault(schema: Mapping[str, Any]) -> str | None:
    """Why a schema's fields can't be extracted by an encoder; None if they can."""
    for name, field in schema.get("properties", {}).items():
        if not isinstance(field, Mapping) or not (types_of(field) <= _SCALARS):
            return f"The field {name!r} is not a single text, number or truth value"
        if {"string"} < types_of(field):
            return f"The field {name!r} may be a text or something else, and nobody could tell which"
        if not types_of(field) and not is_fixed(field):
            return f"The field {name!r} has no type of its own in the schema"
        fixed = field.get("enum", [field["const"]] if "const" in field else [])
        if any(value is not None and not isinstance(value, str | int | float | bool) for value in fixed):
            return f"The field {name!r} is not a single text, number or truth value"
    return None if schema.get("properties") else "The schema names no fields"


def plan_fields(spec: FieldSpec) -> list[LearnedField]:
    """How each field of the schema is extracted: whether it has spans, and its classes.

    :raises ExportError: an encoder can't extract one of the fields or learn its values.
    """
    if fault := pointing_fault(spec.schema):
        raise ExportError(f"{fault}; a decoder can learn to write it (--method lora).")
    required = spec.schema.get("required", ())
    return [
        _plan(name, of_field, spec, is_required=name in required)
        for name, of_field in spec.schema["properties"].items()
    ]


def _plan(name: str, schema: Mapping[str, Any], spec: FieldSpec, *, is_required: bool) -> LearnedField:
    types = span_types(schema)
    fixed = is_fixed(schema) or types == {"boolean"}
    by_heart: Counter[tuple[bool, str | int | float]] = Counter()
    rows = longest = negated = 0
    for text, fields in zip(spec.texts, spec.fields, strict=True):
        if (value := fields.get(name)) is None:
            continue
        rows += 1
        places = find_places(text, value, types)
        verbatim = must_be_verbatim(spec, schema, value)
        if not places and not verbatim:
            places = find_places(text, negate(value), types)
            negated += bool(places)
        longest = max([longest, *(end - start for start, end in places)])
        if not places and not verbatim:
            by_heart[isinstance(value, bool), value] += 1  # or 1 and true would be the same key
    fewest = 1 if fixed else _FEWEST_OF_VALUE
    values = sorted(by_heart.items(), key=lambda item: (-item[1], str(item[0][1])))
    field = LearnedField(
        name=name,
        optional=not is_required or rows < len(spec.texts),
        longest=max(_ROOM * longest, _LEAST_ROOM) if longest else 0,
        negated=negated >= _FEWEST_OF_VALUE,
        values=tuple(value for (_, value), count in values if count >= fewest),
    )
    if not field.options:
        raise ExportError(
            f"The values of the field {name!r} are in none of the texts; verbatim texts and rare ones aren't "
            "learned by heart, though a decoder can learn to write others (--method lora)."
        )
    return field


def must_be_verbatim(spec: FieldSpec, schema: Mapping[str, Any], value: Any) -> bool:
    """Whether a field's value must be verbatim in the message: a text that the schema doesn't fix, in a
    ``verbatim`` task."""
    open_text = isinstance(value, str) and bool(value.strip()) and not is_fixed(schema)
    return spec.section.verbatim and open_text


def aim_at(field: LearnedField, schema: Mapping[str, Any], text: str, value: Any) -> Aim:
    """The training target of ``field`` in a row."""
    if value is None:
        return Aim(0 if field.optional else None)
    if field.longest and (places := find_places(text, value, span_types(schema))):
        return Aim(field.place_option, places)
    if field.negated and (places := find_places(text, negate(value), span_types(schema))):
        return Aim(field.negated_option, places)
    known = [(type(one) is bool, one) for one in field.values]
    if (type(value) is bool, value) in known:
        return Aim(field.first_value + known.index((type(value) is bool, value)))
    return Aim(None)
