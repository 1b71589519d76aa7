"""Marking: asks for the fields of each message, by words of the message or typed values.

The rows are those of corrections with ``fields``, null for a field that the message doesn't have. They train
on a build machine, since an encoder that finds words, or a decoder, needs torch.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edgeslm.bundle.spans import NUMBER, Place, find_places, read_place, span_types, types_of
from edgeslm.cli.screen import say
from edgeslm.errors import plural
from edgeslm.node.feedback import fields_fault
from edgeslm.telemetry.log_lines import printable

Schema = Mapping[str, Any]
SKIP, UNDO, QUIT = "s", "u", "q"
LITERAL: Final = "="
"""Begins a value that is taken as it is typed, even if it looks like the number of a word."""
SCALARS: Final = frozenset({"string", "integer", "number", "boolean"})
TRUTH: Final = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
_WORD: Final = re.compile(r"\S+")
_EDGE: Final = ".,;:!?\"'()[]{}<>"
_RANGE: Final = re.compile(r"(\d{1,4})(?:\s*(?:-|\s)\s*(\d{1,4}))?")


class Leave(Exception):
    """The user typed one of the keys that leave a message."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def mark(
    texts: Sequence[str],
    schema: Schema,
    keep: Callable[[str, Mapping[str, Any]], None],
    read: Callable[[], str] | None = None,
) -> int:
    """Asks for the fields of each text until the user quits. A row is stored when the next one is given, so
    that the last can be taken back.

    :param keep: stores a row. :param read: reads a line; "" at the end of the input.
    :return: number of rows stored.
    """
    read = read or sys.stdin.readline
    say(f"Type numbers of words, such as 3 or 3-5, or the value; {LITERAL}3 is the value 3, not a word.")
    say(f"Enter: the message doesn't have it. {SKIP} skips, {UNDO} takes the last message back, {QUIT} ends.")
    last: tuple[str, Mapping[str, Any]] | None = None
    count = place = 0
    try:
        while place < len(texts):
            try:
                fields = _fields(texts[place], schema, read)
            except Leave as left:
                if left.key == QUIT:
                    break
                if left.key == SKIP:
                    place += 1
                elif last is None:
                    say("there is nothing to take back")
                else:
                    place, last = texts.index(last[0]), None
                    say("taken back")
                continue
            if last is not None:
                keep(*last)
                count += 1
            last = texts[place], fields
            place += 1
    finally:
        if last is not None:
            keep(*last)
            count += 1
    return count


def _fields(text: str, schema: Schema, read: Callable[[], str]) -> dict[str, Any]:
    """:raises Leave: the user leaves the message."""
    words = words_of(text)
    while True:
        say(f"\n{printable(text[:2000])}")
        say(printable("  ".join(f"{number} {text[slice(*word)]}" for number, word in enumerate(words, 1))))
        fields = {
            name: _field(text, words, name, field, read, is_required=name in schema.get("required", ()))
            for name, field in schema.get("properties", {}).items()
        }
        fault = fields_fault(schema, {name: value for name, value in fields.items() if value is not None})
        if fault is None:
            return fields
        say(printable(f"The fields don't fit the schema: {fault}. Again:"))


def _field(
    text: str,
    words: Sequence[Place],
    name: str,
    schema: Schema | bool,
    read: Callable[[], str],
    *,
    is_required: bool,
) -> Any:
    field = {} if isinstance(schema, bool) else schema
    hint = ", ".join(map(str, field.get("enum", ()))) or ", ".join(sorted(types_of(field)))
    while True:
        sys.stdout.write(printable(f"{name}{f' ({hint})' if hint else ''}: "))
        sys.stdout.flush()
        line = read()
        if not sys.stdin.isatty():
            say("")
        said = line.strip()
        if not line or said in (SKIP, UNDO, QUIT):
            raise Leave(said or QUIT)
        if not said:
            if not is_required:
                return None
            say(f"The schema requires {name}; {SKIP} skips the message.")
            continue
        try:
            return read_value(text, words, field, said)
        except ValueError as error:
            say(printable(str(error)))


def words_of(text: str) -> list[Place]:
    """The words of a text, without punctuation at their ends."""
    found = []
    for match in _WORD.finditer(text):
        start, end = match.span()
        while start < end and text[start] in _EDGE:
            start += 1
        while end > start and text[end - 1] in _EDGE:
            end -= 1
        found += [(start, end)] if start < end else []
    return found


def read_value(text: str, words: Sequence[Place], field: Schema, said: str) -> Any:
    """The value of a field that the user means.

    :raises ValueError: there is none; the error's text is a sentence.
    """
    types = types_of(field) or span_types(field)
    fixed = field.get("enum", [field["const"]] if "const" in field else [])
    listed = [value for value in fixed if value is not None]
    if (numbers := _RANGE.fullmatch(said)) and int(numbers[1]) in range(1, len(words) + 1):
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if not first <= last <= len(words):
            raise ValueError(f"The words have numbers from 1 to {len(words)}.")
        return _of_words(text, (words[first - 1][0], words[last - 1][1]), types, listed)
    said = said.removeprefix(LITERAL).strip()
    if listed:
        return _of_list(said, listed)
    if not types <= SCALARS or not types:
        try:
            return json.loads(said)
        except ValueError:
            raise ValueError("Type the value as JSON.") from None
    if types == {"boolean"}:
        if said.lower() not in TRUTH:
            raise ValueError("Type y or n.")
        return TRUTH[said.lower()]
    if "string" in types:
        if not find_places(text, said, types):
            say("(not words of the message: an encoder learns only those, and values that the schema lists)")
        return said
    return _number(said, types)


def _of_words(text: str, place: Place, types: frozenset[str], listed: Sequence[Any]) -> Any:
    marked = text[slice(*place)]
    if listed:
        return _of_list(marked, listed)
    if "string" in types or not types:
        return marked
    if types == {"boolean"}:
        raise ValueError("Type y or n.")
    numbers = [match.span() for match in NUMBER.finditer(text) if place[0] <= match.start() < place[1]]
    values = [value for one in numbers if (value := read_place(text, one, types)) is not None]
    if len(values) != 1:
        raise ValueError(f"{marked!r} isn't one number; type the number, such as {LITERAL}91.")
    return values[0]


def _of_list(said: str, listed: Sequence[Any]) -> Any:
    exact = [value for value in listed if str(value).casefold() == said.casefold()]
    found = exact or [value for value in listed if str(value).casefold().startswith(said.casefold())]
    if len(found) != 1:
        raise ValueError(f"The value is one of {', '.join(map(str, listed))}.")
    return found[0]


def _number(said: str, types: frozenset[str]) -> Any:
    match = NUMBER.fullmatch(said)
    value = read_place(said, match.span(), types) if match else None
    if value is None:
        raise ValueError("Type a whole number." if "number" not in types else "Type a number.")
    return value


def marked(count: int, node: str, file: object, task: str) -> str:
    """What to do with the rows, for the terminal."""
    said = f"\n{plural(count, 'message')} marked." if count else "\nNothing new."
    return (
        f"{said} Train on a build machine, which brings the result back as an update:\n"
        f"    edgeslm-export tune --from {node} --task {task} learned/{task} --push\n"
        f"or, where the configuration is at hand, with --from {file}"
    )
