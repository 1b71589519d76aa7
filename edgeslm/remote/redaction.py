"""Redaction: replaces personal and secret data in texts by placeholders, and puts them back in the answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from edgeslm.redaction.patterns import find_exact, replace
from edgeslm.remote.chat import LONGEST_ANSWER, RemoteError

TEXTS: Final = ("enum", "const", "description", "title", "examples", "default")
"""Keys of a JSON Schema whose texts are data; the others have names of fields."""
_PLACEHOLDER: Final = re.compile(r"\[[A-Z]{2,6}_\d{1,6}\]")


class Redaction:
    """Redacts the texts of one request. The same value gets the same placeholder in all of them."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._placeholders: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()
        self._taken = {found for text in texts for found in _PLACEHOLDER.findall(text)} if names else set()
        self._room = LONGEST_ANSWER

    def hide(self, value: Any) -> Any:
        """A copy of a JSON value whose texts have placeholders; keys stay."""
        if not self._names:
            return value
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, Mapping):
            return {key: self.hide(item) for key, item in value.items()}
        return [self.hide(item) for item in value] if isinstance(value, list | tuple) else value

    def hide_schema(self, schema: Any) -> Any:
        """A copy of a JSON Schema, or of a tool with one, whose values and descriptions have placeholders."""
        if isinstance(schema, Mapping):
            return {
                key: self.hide(item) if key in TEXTS else self.hide_schema(item)
                for key, item in schema.items()
            }
        return [self.hide_schema(item) for item in schema] if isinstance(schema, list | tuple) else schema

    def restore(self, value: Any) -> Any:
        """A copy of a JSON value with the original data instead of placeholders.

        :raises RemoteError: it would be too long, as an answer that repeats a placeholder.
        """
        if not self._originals:
            return value
        if isinstance(value, str):
            return _PLACEHOLDER.sub(self._original, value)
        if isinstance(value, Mapping):
            return {key: self.restore(item) for key, item in value.items()}
        return [self.restore(item) for item in value] if isinstance(value, list | tuple) else value

    def _original(self, match: re.Match[str]) -> str:
        original = self._originals.get(match[0], match[0])
        self._room -= len(original)
        if self._room < 0:
            raise RemoteError("its answer repeats what was redacted too often")
        return original

    def _hide(self, text: str) -> str:
        spans = find_exact(text, self._names)
        return replace(text, spans, lambda span: self._placeholder(span.kind, text[span.start : span.end]))

    def _placeholder(self, name: str, original: str) -> str:
        if original not in self._placeholders:
            while True:
                self._numbers[name] += 1
                placeholder = f"[{name.upper()}_{self._numbers[name]}]"
                if placeholder not in self._taken:
                    break
            self._placeholders[original] = placeholder
            self._originals[placeholder] = original
        return self._placeholders[original]
