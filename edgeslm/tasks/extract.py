"""``extract``: extracts from a message the fields that a JSON schema defines.

Either a decoder writes JSON under a grammar that enforces the schema, or a head trained on an encoder picks
spans of the message and values seen in training.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeslm.bundle.calibration import sure
from edgeslm.bundle.manifest import Bundle
from edgeslm.bundle.spans import is_fixed
from edgeslm.config.json_schemas import (
    PATTERN_SIZE,
    make_validator,
    pattern_faults,
    patterns_size,
    schema_faults,
    target_of,
)
from edgeslm.config.patterns import make_matcher
from edgeslm.engine.calls import Generate, Guide, Output, Point, Prompt, Text
from edgeslm.errors import ConfigError, InvalidRequest, TooLong
from edgeslm.messages import Request
from edgeslm.remote.chat import Chat, parse_object
from edgeslm.tasks.consulting import Consult, as_messages
from edgeslm.tasks.pointed import FieldReader, make_readers
from edgeslm.tasks.task import PROBABILITY, Ask, OnChunk, Outcome, Task, object_schema, threshold_of

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

INSTRUCTION = "Read the message and write its fields as JSON."

STRING_CHARS = 200
"""Maximum length of a string, in characters, even if ``maxLength`` is higher or missing.

Without a limit, a weak model may never end a string.
"""
ARRAY_ITEMS = 16
"""Maximum number of items of an array, even if ``maxItems`` is higher or missing."""
TIGHT_STRING_CHARS = 24
TIGHT_ARRAY_ITEMS = 4
"""The ``TIGHT_`` limits apply to the retry after a JSON output that ``max_tokens`` cut off."""
SCHEMA_CHARS = 20_000
"""Maximum size of a request's schema, in characters, since checking a schema blocks the event loop."""
SCHEMA_PARTS = 500
"""Maximum number of JSON objects within a request's schema; each of them is checked."""
PHRASE_WORDS = 8
"""Maximum number of consecutive words in a candidate for a ``verbatim`` string."""
BRACKETS = "\"'`()[]{}<>,;"
PIECE = r"[^\s\"'`()\[\]{}<>,;=|&:/@!?]+"
"""Pattern of a piece: a part of a word between separators."""
_WITH_PARTS = frozenset({"properties", "items", "prefixItems", "anyOf", "oneOf", "allOf", "$ref"})
"""Keys of a subschema whose nested subschemas define its allowed values."""
MOST_PIECES = 12
"""Maximum number of pieces of one word that are combined into candidates."""
MOST_PHRASES = 1000


_AS_JSON = "\n\nAnswer with the fields as a JSON object."


class Extract(Task):
    kind = "extract"

    def set_up(self) -> None:
        self._calibration = None if self.learned is None else self.learned.calibration
        self.threshold = threshold_of(self.name, self.section, self._calibration) if self.is_head else 0.0
        """Confidence below which a head's result is ``abstained``; 0 for a decoder, whose results have no
        confidence."""
        self._readers: Sequence[FieldReader] = ()
        if self.is_head and self.learned is not None:
            schema = self.section.output_schema or {}
            for path, sentence in pattern_faults((), schema):
                raise ConfigError([f"tasks.{self.name}.schema.{'.'.join(map(str, path))}: {sentence}"])
            self._readers = make_readers(self.learned, schema, verbatim=self.section.verbatim)

    def check_input(self, request: Request) -> None:
        super().check_input(request)
        if "schema" in request.options:
            check_schema(request.options["schema"])

    async def run(self, request: Request, ask: Ask, on_chunk: OnChunk | None) -> Outcome:
        message = self.text(request)
        if self.is_head and self.bundle is not None:
            return await self._point(message, ask, self.bundle)
        schema = self.option(request, "schema")
        words = phrases(message) if self.section.verbatim else None
        wide = bounded(schema, STRING_CHARS, ARRAY_ITEMS, words)
        tight = bounded(schema, TIGHT_STRING_CHARS, TIGHT_ARRAY_ITEMS, words)
        fields, output = await self._fields(request, ask, message, wide)
        if fields is None and tight != wide:
            first = output.cost
            fields, output = await self._fields(request, ask, message, tight)
            output = replace(output, cost=first + output.cost)
        if fields is None:
            raise TooLong(
                f"the fields don't fit {self.option(request, 'max_tokens')} tokens; raise max_tokens, "
                "or bound the schema with maxLength and maxItems"
            )
        result = {"fields": fields, "spans": find_spans(fields, message), "stage": self.stage}
        return Outcome.of(output, result)

    def result_schema(self) -> dict[str, Any]:
        span = {"type": "object", "properties": {"start": {"type": "integer"}, "end": {"type": "integer"}}}
        known = None if "schema" in self.section.allowed else self.section.output_schema
        if known and self.needs_encoder:  # an abstained result may lack some
            known = {
                key: known[key] for key in ("type", "properties", "$defs", "definitions") if key in known
            }
        properties = {
            "fields": known or {"type": "object"},
            "spans": {"type": "object", "additionalProperties": span},
            "stage": {"type": "string"},
        }
        # A model stage after a head has no confidence.
        return object_schema(properties, {"confidence": PROBABILITY} if self.is_head else None)

    def option(self, request: Request, name: str) -> Any:
        if name == "schema":
            return request.options.get("schema", self.section.output_schema)
        return super().option(request, name)

    def is_answer(self, result: Mapping[str, Any], message: str) -> bool:
        fields = result.get("fields")
        if not isinstance(fields, Mapping) or not self._check.is_valid(dict(fields)):
            return False
        return not self.section.verbatim or all(
            text in message for text in _open_texts(fields, self.section.output_schema or {})
        )

    async def consult(
        self, request: Request, found: Mapping[str, Any], ask: Consult
    ) -> Mapping[str, Any] | None:
        message, schema = self.text(request), self.option(request, "schema")
        messages = as_messages(self.turns(self._instruction(request, schema), Text(message)))
        messages[-1]["content"] += _AS_JSON
        reply = await ask(
            Chat(messages, self.option(request, "max_tokens"), schema, sampling={"temperature": 0.0})
        )
        fields = parse_object(reply.text)
        if fields is None or not make_validator(schema).is_valid(fields):
            return None
        if self.section.verbatim and not all(text in message for text in _open_texts(fields, schema)):
            return None
        return {"fields": fields, "spans": find_spans(fields, message)}

    def encode_example(self, output: Any) -> str:
        return encode_fields(output)

    def is_whole(self, fields: Mapping[str, Any]) -> bool:
        """Whether the fields fit the task's schema."""
        return self._check.is_valid(dict(fields))

    @cached_property
    def _check(self) -> Validator:
        return make_validator(self.section.output_schema or {})

    async def _point(self, message: str, ask: Ask, head: Bundle) -> Outcome:
        """Runs the head. If a required field has no valid value, the field is omitted and the result is
        ``abstained``."""
        output = await ask(Point(message, str(head.path), self.section.overflow, head.digest))
        fields: dict[str, Any] = {}
        spans: dict[str, dict[str, int]] = {}
        share, complete = 1.0, True
        for reader in self._readers:
            found = reader.read(message, output.fields[reader.number])
            complete = complete and found is not None
            if found is None:
                continue
            share *= found.share
            if found.is_there:
                fields[reader.name] = found.value
            if found.place is not None:
                spans[reader.name] = {"start": found.place[0], "end": found.place[1]}
        complete = complete and self._check.is_valid(fields)
        confidence = sure(share, self._calibration) if complete else 0.0
        result = {
            "fields": fields,
            "spans": spans,
            "confidence": confidence,
            "stage": self.stage,
        }
        return Outcome.of(output, result, abstained=not complete or confidence < self.threshold)

    async def _fields(
        self, request: Request, ask: Ask, message: str, schema: Mapping[str, Any]
    ) -> tuple[Any, Output]:
        """The decoded fields, and the engine's output. The fields are None if ``max_tokens`` cut off the JSON
        output."""
        prompt = Prompt(
            self.turns(self._instruction(request, schema), Text(message, cut=True)),
            overflow=self.section.overflow,
        )
        guide = Guide("json_schema", json.dumps({**schema, "x-guidance": {"whitespace_flexible": False}}))
        output = await ask(
            Generate(prompt, self.option(request, "max_tokens"), self.sampling(request), guide)
        )
        try:
            return json.loads(output.text), output
        except ValueError:
            return None, output

    def _instruction(self, request: Request, schema: Mapping[str, Any]) -> tuple[str | Text, ...]:
        if self.learned is not None:  # the adapter was trained on its fields
            return (self.section.instruction or "",)
        lines = []
        for name, field in schema.get("properties", {}).items():
            about = field.get("description", "") if isinstance(field, Mapping) else ""
            lines.append(f"\n- {name}: {about}" if about else f"\n- {name}")
        shown = "".join(lines)
        return (
            self.section.instruction or INSTRUCTION,
            Text(shown) if "schema" in request.options else shown,
        )


def _open_texts(fields: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    """Values of string fields, except of fields whose schema lists the allowed values."""
    for name, value in fields.items():
        if isinstance(value, str) and not is_fixed(schema.get("properties", {}).get(name, {})):
            yield value


def check_schema(
    schema: Mapping[str, Any], where: str = "options.schema", pattern_size: int = PATTERN_SIZE
) -> int:
    """Checks a request's schema; ``where`` names it in the error's text.

    A valid schema that the engine doesn't support is refused later, by the engine.

    :param pattern_size: limit of the compiled size of its regular expressions, in units of 100 bytes.
    :return: that size. :raises InvalidRequest: the schema is too large, or isn't one of named fields.
    """
    try:
        if len(json.dumps(schema)) > SCHEMA_CHARS or sum(1 for _ in _mappings(schema)) > SCHEMA_PARTS:
            most = f"{SCHEMA_CHARS} characters or {SCHEMA_PARTS} parts"
            raise InvalidRequest(f"{where}: the schema has more than {most}; send a smaller one")
        fault = next(schema_faults((), dict(schema), pattern_size), None)
    except RecursionError:
        fault = ((), "nested too deeply")
    if fault is not None:
        path, sentence = fault
        raise InvalidRequest(f"{where}: {'.'.join(map(str, path)) or 'the schema'}: {sentence}")
    return patterns_size(schema)


def _mappings(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield value
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for child in children:
        yield from _mappings(child)


def encode_fields(fields: Any) -> str:
    """JSON without spaces, the format that the grammar enforces, so that examples look like outputs."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def bounded(schema: Any, string_chars: int, array_items: int, words: Sequence[str] | None = None) -> Any:
    """A copy of a schema that limits the length of strings and arrays.

    If ``words`` is given, a string must be one of the words that fit its subschema, or empty if no word fits.
    If ``words`` is None, the length of strings with a ``pattern`` or ``format`` is not limited. Values of
    ``enum`` and ``const`` stay as they are.
    """
    schema = copy.deepcopy(schema)
    parts = _parts(schema)
    for node in _nodes(schema):
        kinds = node.get("type", ())
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        if words is not None and not node.keys() & {"enum", "const"} and _may_be_text(node, kinds):
            _restrict_strings(node, kinds, words, string_chars)
        elif "string" in kinds and not node.keys() & {"enum", "const", "pattern", "format"}:
            least, most = node.get("minLength", 0), min(node.get("maxLength", string_chars), string_chars)
            node["maxLength"] = max(most, least)
        if ("array" in kinds or "maxItems" in node) and "enum" not in node:
            node["maxItems"] = max(
                min(node.get("maxItems", array_items), array_items), node.get("minItems", 0)
            )
        if "object" in kinds and "properties" in node and id(node) not in parts:
            node.setdefault("additionalProperties", False)
    return schema


def _may_be_text(node: Mapping[str, Any], kinds: set[str]) -> bool:
    """Whether a subschema allows strings: its type does, or it has neither a type nor nested subschemas."""
    return "string" in kinds or (not kinds and not node.keys() & _WITH_PARTS)


def _restrict_strings(node: dict[str, Any], kinds: set[str], words: Sequence[str], string_chars: int) -> None:
    """Restricts the strings of a subschema to the ``words`` that fit it; other types stay allowed."""
    least, most = node.get("minLength", 0), min(node.get("maxLength", string_chars), string_chars)
    matches = make_matcher(node.get("pattern", ""))
    fitting = [word for word in words if least <= len(word) <= most and matches(word)] or [""]
    others = [{"type": kind} for kind in sorted(kinds - {"string", "null"})]
    values: dict[str, Any] = {"enum": [*fitting, None] if "null" in kinds else fitting}
    about = {key: node[key] for key in ("title", "description") if key in node}
    node.clear()
    node |= about | ({"anyOf": [values, *others]} if others else values)


def phrases(message: str) -> list[str]:
    """Candidates for a ``verbatim`` string.

    Candidates are words without punctuation, pieces of words (``rhost`` and ``192.0.2.1`` of
    ``rhost=192.0.2.1``), and up to :data:`PHRASE_WORDS` consecutive words. There are at most
    :data:`MOST_PHRASES` candidates; for a long message, the candidates with the most words are left out
    first.
    """
    words = [match.span() for match in re.finditer(r"\S+", message)]
    trimmed = [_trim(message, start, end) for start, end in words]
    found: dict[str, None] = {}
    runs = _runs(message, trimmed, PHRASE_WORDS)
    for fresh in (next(runs), _pieces(message, words), *runs):
        if len(found | fresh) > MOST_PHRASES:
            break
        found |= fresh
    return list(found) or [message[start:end] for start, end in words[:MOST_PHRASES]]


def _runs(message: str, words: Sequence[tuple[int, int]], longest: int) -> Iterator[dict[str, None]]:
    """Yields the single words, then every two consecutive words, and so on up to ``longest`` words."""
    for length in range(1, longest + 1):
        yield {
            message[first[0] : last[1]]: None
            for first, last in zip(words, words[length - 1 :], strict=False)
            if first[0] < last[1]
        }


def _pieces(message: str, words: Sequence[tuple[int, int]]) -> dict[str, None]:
    """Words and their parts; a part is one piece, or several consecutive pieces with their separators."""
    found: dict[str, None] = {}
    for start, end in words:
        word = message[start:end]
        found[word.strip(BRACKETS + ".!?") or word] = None  # an IPv6 address may begin with a colon
        spans = [match.span() for match in re.finditer(PIECE, word)][:MOST_PIECES]
        for first, (begin, _) in enumerate(spans):
            found |= {word[begin:stop]: None for _, stop in spans[first:]}
    return found


def _trim(message: str, start: int, end: int) -> tuple[int, int]:
    """Start and end of a word without surrounding punctuation; a word of only punctuation stays whole."""
    bare = message[start:end].strip(BRACKETS + ":.!?")
    if not bare:
        return start, end
    start = message.index(bare, start)
    return start, start + len(bare)


def _parts(schema: Any) -> set[int]:
    """Ids (``id()``) of subschemas that are combined by ``allOf``, ``anyOf`` or ``oneOf`` to describe one
    object.

    A subschema that is combined with others must not forbid additional properties, since another subschema
    may define them.
    """
    parts: set[int] = set()
    for node in _nodes(schema):
        combined = [node[key] for key in ("allOf", "anyOf", "oneOf") if key in node]
        if "allOf" in node or (combined and "properties" in node):
            parts |= {id(node), *(id(part) for group in combined for part in group)}
    return parts


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """All subschemas, each once, including the root and the targets of references."""
    seen: set[int] = set()
    left = [schema]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left.extend(reversed(node))
        if not isinstance(node, dict) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        below: list[Any] = []
        for key, value in node.items():
            if key in ("properties", "$defs", "definitions", "patternProperties"):
                below.extend(value.values() if isinstance(value, dict) else ())
            elif key in ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties"):
                below.append(value)
            elif key == "$ref" and isinstance(value, str):
                below.append(target_of(value, schema))
        left.extend(reversed(below))


def find_spans(fields: Any, message: str) -> dict[str, dict[str, int]]:
    """Positions of string fields in the message: dotted path -> character offsets.

    A span is the first occurrence of the string; strings that don't occur in the message have no span.
    """
    spans: dict[str, dict[str, int]] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, str) and value and (start := message.find(value)) >= 0:
            spans[path] = {"start": start, "end": start + len(value)}
        elif isinstance(value, dict):
            for key, child in value.items():
                visit(child, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for index, child in enumerate(value):
                visit(child, f"{path}.{index}" if path else str(index))

    visit(fields, "")
    return spans
