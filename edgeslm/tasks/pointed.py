"""Field values of a trained extract task, read from the head's output: options and spans.

A field's options are: no value, each value seen in training, and a span of the message. The most likely
option that fits the field's schema is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.learned_task import LearnedField, LearnedSection
from edgeslm.bundle.spans import Place, find_places, is_fixed, negate, read_place, span_types
from edgeslm.config.json_schemas import make_validator
from edgeslm.engine.calls import Pointed

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


@dataclass(frozen=True, slots=True)
class PointedField:
    """A field's value as found by a head.

    ``is_there``: whether the field is present (its value may be null). ``share``: the head's probability of
    the value. ``place``: the span of the message from which the value was read, or in which a value seen in
    training occurs.
    """

    value: Any
    share: float
    is_there: bool = True
    place: Place | None = None


class FieldReader:
    """Reads one field from a head's output.

    ``number``: index of the field in the head. ``types``: the JSON types that a span may be parsed as.
    """

    def __init__(
        self,
        number: int,
        field: LearnedField,
        check: Validator,
        types: frozenset[str],
        *,
        required: bool,
        verbatim: bool,
    ) -> None:
        self.number, self.name = number, field.name
        self._field, self._check, self._types = field, check, types
        self._required, self._verbatim = required, verbatim
        self._fits = [check.is_valid(value) for value in field.values]

    def read(self, message: str, pointed: Pointed) -> PointedField | None:
        """The most likely valid value; None if no value is valid.

        The probabilities of options with the same value are added.
        """
        answers: dict[tuple[bool, bool, Any], PointedField] = {}
        for option in range(len(pointed.options)):
            if (found := self._as_option(option, message, pointed)) is not None:
                answer = (found.is_there, isinstance(found.value, bool), found.value)  # 1 == True
                if (before := answers.get(answer)) is not None:
                    share = min(1.0, before.share + found.share)
                    found = replace(found, share=share, place=before.place or found.place)
                answers[answer] = found
        best = max(answers.values(), key=lambda one: one.share, default=None)
        if best is None or best.place is not None or best.value is None:
            return best
        places = find_places(message, best.value, self._types)
        return replace(best, place=places[0]) if places else best

    def _as_option(self, option: int, message: str, pointed: Pointed) -> PointedField | None:
        field, share = self._field, pointed.options[option]
        if field.optional and option == 0:
            if self._required and not self._check.is_valid(None):
                return None
            return PointedField(None, share, is_there=self._required)
        if option == field.place_option:
            return self._in_message(message, pointed, share)
        if option == field.negated_option:
            return self._in_message(message, pointed, share, has_other_sign=True)
        value = field.values[option - field.first_value]
        if not self._fits[option - field.first_value]:
            return None
        if self._verbatim and isinstance(value, str) and value not in message:
            return None
        return PointedField(value, share)

    def _in_message(
        self, message: str, pointed: Pointed, share: float, *, has_other_sign: bool = False
    ) -> PointedField | None:
        """The most likely valid value in the message, or number with the other sign.

        The probabilities of spans with the same value are added. The most likely of these spans becomes the
        field's ``place``.
        """
        values: dict[Any, tuple[float, Place]] = {}
        for start, end, likely in pointed.places:  # best first
            value = read_place(message, (start, end), self._types)
            value = negate(value) if has_other_sign else value
            if value is not None:
                before, place = values.get(value, (0.0, (start, end)))
                values[value] = (before + likely, place)
        for value, (likely, place) in sorted(values.items(), key=lambda item: -item[1][0]):
            if self._check.is_valid(value):
                return PointedField(value, share * min(likely, 1.0), place=place)
        return None


def make_readers(learned: LearnedSection, schema: Mapping[str, Any], *, verbatim: bool) -> list[FieldReader]:
    """A reader for each property of ``schema`` that is also a trained field, in the order of ``schema``.

    :param verbatim: if true, a string is accepted only if it occurs in the message; fields whose schema lists
        the allowed values are exempt.
    """
    whole = make_validator(schema)
    numbers = {field.name: number for number, field in enumerate(learned.fields)}
    taught = (learned.output_schema or {}).get("properties", {})
    readers = []
    for name, of_field in schema.get("properties", {}).items():
        if name in numbers:
            reader = FieldReader(
                numbers[name],
                learned.fields[numbers[name]],
                whole.evolve(schema=of_field),  # it may refer to other parts of the schema
                span_types(of_field) or span_types(taught.get(name, {})),
                required=name in schema.get("required", ()),
                verbatim=verbatim and not is_fixed(of_field),
            )
            readers.append(reader)
    return readers
