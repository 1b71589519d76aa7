"""Fields of a learned ``extract`` task, read from what a head says of their options and places.

The likeliest option that fits the field's schema: it is missing, it has a value that was taught, or it is
what stands in the message. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeslm.bundle import LearnedField
from edgeslm.engine.calls import Pointed
from edgeslm.pointing import Place, read_place, types_of


@dataclass(frozen=True, slots=True)
class Found:
    """``is_there`` tells a field with a value, which may be null, from one that is left out; ``share`` is how
    likely that is, as the head has it."""

    value: Any
    share: float
    is_there: bool = True
    place: Place | None = None


class FieldReader:
    """Reads one field; ``number`` is its place among those that were taught."""

    def __init__(
        self, number: int, field: LearnedField, schema: Mapping[str, Any], *, required: bool, verbatim: bool
    ) -> None:
        from jsonschema import Draft202012Validator  # lazy: few nodes have such a task

        self.number, self.name = number, field.name
        self._field, self._required = field, required
        self._types = types_of(schema)
        self._verbatim = verbatim and not schema.keys() & {"enum", "const"}
        self._check = Draft202012Validator(dict(schema))

    def read(self, message: str, pointed: Pointed) -> Found | None:
        """None where no option fits."""
        order = sorted(range(len(pointed.options)), key=pointed.options.__getitem__, reverse=True)
        found = (self._as_option(option, message, pointed) for option in order)
        return next((one for one in found if one is not None), None)

    def _as_option(self, option: int, message: str, pointed: Pointed) -> Found | None:
        field, share = self._field, pointed.options[option]
        if field.optional and option == 0:
            return Found(None, share, is_there=self._required)
        if field.longest and option == int(field.optional):
            return self._in_message(message, pointed, share)
        value = field.values[option - int(field.optional) - bool(field.longest)]
        if self._verbatim and isinstance(value, str) and value not in message:
            return None
        return Found(value, share) if self._check.is_valid(value) else None

    def _in_message(self, message: str, pointed: Pointed, share: float) -> Found | None:
        """The likeliest text that fits; one that stands there several times counts with all its places, and
        the likeliest of them is told."""
        texts: dict[str, tuple[float, Place]] = {}
        for start, end, likely in pointed.places:  # the likeliest first
            before, place = texts.get(message[start:end], (0.0, (start, end)))
            texts[message[start:end]] = (before + likely, place)
        for text, (likely, place) in sorted(texts.items(), key=lambda item: -item[1][0]):
            value = read_place(text, self._types)
            if value is not None and self._check.is_valid(value):
                return Found(value, share * likely, place=place)
        return None


def make_readers(
    fields: Sequence[LearnedField], schema: Mapping[str, Any], *, verbatim: bool
) -> list[FieldReader]:
    """A reader for each property of ``schema``, in its order; those that were taught beside them are not
    wanted.

    :param verbatim: texts that aren't fixed by the schema have to stand in the message.
    """
    numbers = {field.name: number for number, field in enumerate(fields)}
    required = schema.get("required", ())
    return [
        FieldReader(
            numbers[name], fields[numbers[name]], of_field, required=name in required, verbatim=verbatim
        )
        for name, of_field in schema.get("properties", {}).items()
        if name in numbers
    ]
