"""``classify`` and ``extract`` by a zero-shot encoder: labels and fields that no model was trained for.

A label is shown to the model with its meaning, and a field by its description, or else by its name. Results
have ``taught: false`` and a confidence, so these tasks can be the first stage of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.spans import NUMBER, Place, Run, is_fixed, read_place, span_types, types_of
from edgeslm.bundle.zero_shot import MOST_LABELS
from edgeslm.config.json_schemas import make_validator
from edgeslm.engine.calls import FindSpans, LabelText, Output
from edgeslm.errors import ConfigError, InvalidRequest
from edgeslm.messages import Request
from edgeslm.tasks.classify import Classify
from edgeslm.tasks.extract import Extract
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


class ZeroShotClassify(Classify):
    """``classify`` by a model of kind ``gliclass`` or ``nli``."""

    is_zero_shot = True

    def set_up(self) -> None:
        super().set_up()
        phrases = [label_phrase(label, meaning) for label, meaning in (self.section.labels or {}).items()]
        if len(phrases) > MOST_LABELS:
            fault = f"more than the {MOST_LABELS} of a zero-shot model; name fewer"
        elif not all(phrase.strip() for phrase in phrases):
            fault = "a label of underscores alone has no words that a zero-shot model could read"
        elif again := next((phrase for phrase in phrases if phrases.count(phrase) > 1), None):
            fault = f"a zero-shot model reads two of them as {again!r}; name one in other words"
        else:
            return
        raise ConfigError([f"tasks.{self.name}.labels: {fault}"])

    async def score(self, request: Request, meanings: Mapping[str, str], message: str, ask: Ask) -> Output:
        phrases = tuple(label_phrase(label, meaning) for label, meaning in meanings.items())
        return await ask(LabelText(message, phrases, self.section.overflow))


class ZeroShotExtract(Extract):
    """``extract`` by a model of kind ``gliner``."""

    is_zero_shot = True

    def set_up(self) -> None:
        super().set_up()
        self.threshold = self.section.threshold
        try:
            self._finders = make_finders(self.section.output_schema or {})
        except ValueError as error:
            raise ConfigError([f"tasks.{self.name}.schema.{error}"]) from None

    @property
    def is_untaught(self) -> bool:
        return True

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        message = self.text(request)
        schema, finders = self.option(request, "schema"), self._finders
        if "schema" in request.options:
            try:
                finders = make_finders(schema)
            except ValueError as error:
                raise InvalidRequest(f"options.schema.{error}") from None
        phrases = tuple(finder.phrase for finder in finders)
        output = await ask(FindSpans(message, phrases, self.section.overflow))
        fields: dict[str, Any] = {}
        spans: dict[str, dict[str, int]] = {}
        scores: dict[str, float] = {}
        sure = 1.0
        for finder, runs, best in zip(finders, output.places, output.probabilities, strict=True):
            found = finder.read(message, runs)
            if found is None:
                sure = min(sure, 1 - best)
                if finder.required and finder.check.is_valid(None):
                    fields[finder.name] = None
                continue
            fields[finder.name], scores[finder.name] = found.value, found.share
            sure = min(sure, found.share)
            for path, (start, end) in found.places.items():
                spans[path] = {"start": start, "end": end}
        own = "schema" not in request.options
        complete = self.is_whole(fields) if own else make_validator(schema).is_valid(fields)
        confidence = sure if complete else 0.0
        result = {
            "fields": fields,
            "spans": spans,
            "scores": scores,
            "confidence": confidence,
            "stage": self.stage,
            "taught": False,
        }
        return Outcome.of(output, result, abstained=not complete or confidence < self.threshold)

    def result_schema(self) -> dict[str, Any]:
        schema = super().result_schema()
        more = {
            "confidence": PROBABILITY,
            "scores": {"type": "object", "additionalProperties": PROBABILITY},
            "taught": {"const": False},
        }
        return {**schema, "properties": {**schema["properties"], **more}}


def label_phrase(label: str, meaning: str) -> str:
    """What a model reads for a label: ``too_hot`` -> ``too hot``, with its meaning after a colon."""
    words = label.replace("_", " ")
    return f"{words}: {meaning}" if meaning else words


@dataclass(frozen=True, slots=True)
class FoundField:
    """A field's value, its lowest probability, and its places in the message by path (``name`` or
    ``name.0``)."""

    value: Any
    share: float
    places: Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class FieldFinder:
    """Reads one field from spans.

    :param phrase: what the model reads for the field.
    :param types: JSON types that a span may be read as.
    :param values: the allowed values, if the schema lists them.
    :param many: whether the field is a list of all spans.
    """

    name: str
    phrase: str
    types: frozenset[str]
    values: tuple[Any, ...]
    check: Validator
    required: bool
    many: bool

    def read(self, message: str, runs: Sequence[Run]) -> FoundField | None:
        """:param runs: spans, best first. :return: the likeliest valid value, or all of a list in their order
        in the message; None if there is none."""
        read = [(self._value(message, start, end), share) for start, end, share in runs]
        found = [(value, place, share) for (value, place), share in read if value is not None]
        if not self.many:
            for value, place, share in found:
                if self.check.is_valid(value):
                    return FoundField(value, share, {self.name: place})
            return None
        found.sort(key=lambda one: one[1])
        values = [value for value, _, _ in found]
        if not values or not self.check.is_valid(values):
            return None
        places = {f"{self.name}.{number}": place for number, (_, place, _) in enumerate(found)}
        return FoundField(values, min(share for _, _, share in found), places)

    def _value(self, message: str, start: int, end: int) -> tuple[Any, Place]:
        """The value of a span, and its place; the value is None if the span has none of the types."""
        text, place = message[start:end], (start, end)
        if self.values:
            folded = text.casefold()
            same = (value for value in self.values if str(value).casefold() == folded)
            return next(same, None), place
        if "string" in self.types:
            return text, place
        numbers = [match.span() for match in NUMBER.finditer(message, start, end)]
        if len(numbers) != 1:  # "80 degrees" is 80, and "80 or 90 degrees" none
            return None, place
        return read_place(message, numbers[0], self.types), numbers[0]


def make_finders(schema: Mapping[str, Any]) -> list[FieldFinder]:
    """A finder for each property of a schema.

    :raises ValueError: a field that no span can be; the message begins with its name.
    """
    whole = make_validator(dict(schema))
    properties = schema.get("properties", {})
    if len(properties) > MOST_LABELS:
        raise ValueError(f"properties: more than the {MOST_LABELS} of a zero-shot model; name fewer")
    finders: list[FieldFinder] = []
    for name, field in properties.items():
        about = field if isinstance(field, Mapping) else {}
        many = "array" in types_of(field)
        item = about.get("items", {}) if many else field
        types = span_types(item) or frozenset({"string"} if item in ({}, True) else ())
        fixed = is_fixed(item)
        if fixed:
            values = tuple(item.get("enum", [item.get("const")]))
        if types.isdisjoint({"string", "number", "integer"}) and not fixed:
            raise ValueError(
                f"properties.{name}: a zero-shot model finds texts and numbers, and lists of them; "
                "leave it out, or name a decoder as the model"
            )
        phrase = str(about.get("description") or name.replace("_", " "))
        if not phrase.strip():
            raise ValueError(f"properties.{name}: no words that a zero-shot model could read; describe it")
        if any(other.phrase == phrase for other in finders):
            raise ValueError(f"properties.{name}: described as another field; describe it in other words")
        finder = FieldFinder(
            name,
            phrase,
            types,
            values if fixed else (),
            whole.evolve(schema=field),
            required=name in schema.get("required", ()),
            many=many,
        )
        finders.append(finder)
    return finders
