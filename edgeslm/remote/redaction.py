"""Redaction: replaces personal and secret data in texts by placeholders, and puts them back in the answer.

Matching takes linear time. The expressions find what has the form of an address or a number; names of persons
and places aren't found.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from edgeslm.remote.chat import LONGEST_ANSWER, RemoteError


def _digits(text: str) -> str:
    return "".join(one for one in text if one.isdigit())


def _is_card(text: str) -> bool:
    """Luhn's check of a card number."""
    digits = [int(one) for one in reversed(_digits(text))]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = [sum(divmod(2 * one, 10)) for one in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """The check of ISO 7064 (modulo 97)."""
    packed = re.sub(r"[ -]", "", text)
    if not 15 <= len(packed) <= 34:
        return False
    return int("".join(str(int(one, 36)) for one in packed[4:] + packed[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    return 7 <= len(_digits(text)) <= 16


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Check = Callable[[str], bool]


def _after(characters: str) -> str:
    """An expression for the beginning of a word, which doesn't follow ``characters``. In JSON text, ``\\n``
    before a word is an escaped line break."""
    return rf"(?:(?<![\\{characters}])|(?<=\\[nrt])|(?<=\\)(?![nrt]))"


_START: Final = _after(r"\w")
_SPACE: Final = " \u00a0\u2009\u202f\u2010-\u2014"
PATTERNS: Final[Mapping[str, tuple[re.Pattern[str], Check | None]]] = {
    "url": (
        re.compile(_START + r"(?:(?:https?|ftp|wss?|mqtts?)://|www\.)[^\s<>\"'\\]+", re.IGNORECASE),
        None,
    ),
    "email": (re.compile(_after(r"\w.+-") + r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*"), None),
    "mac": (
        re.compile(_after(r"\w:-") + r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![\w:-])"),
        None,
    ),
    "ip": (
        re.compile(
            _after(r"\w.") + r"\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"
            rf"|{_START}(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}[0-9A-Fa-f]{{0,4}}(?:\.\d{{1,3}}){{0,3}}(?!\w)"
        ),
        _is_ip,
    ),
    "iban": (
        re.compile(
            _START + r"[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{4}){2,7}(?:[ -]?[A-Z0-9]{1,3})?(?!\w)", re.IGNORECASE
        ),
        _is_iban,
    ),
    "card": (re.compile(_after(r"\w-") + r"\d(?:[ .-]?\d){12,22}(?!\w)"), _is_card),
    "phone": (
        re.compile(
            rf"(?:{_START}\+\d{{1,3}}"
            rf"|{_START}(?<!\d[.,:-])(?:00\d{{1,3}}|\(0?\d{{2,5}}\)|0\d{{1,5}}"
            r"|(?:1[-. ])?\d{3}(?=[-. ]\d{3}[-. ]\d{4})))"
            rf"(?:[{_SPACE}()/.-]{{0,3}}\d){{4,14}}(?!\w)"
        ),
        _is_phone,
    ),
    "number": (re.compile(_START + r"\w*\d{4}\w*"), None),
}
"""Name -> expression, and a check of what it matches. They are applied in this order."""
_PARTS: Final = re.compile(r"[ .-]")


def _valid(text: str, check: Check) -> str:
    """The longest beginning of a match that passes the check: an expression may take the next word, too."""
    ends = [len(text), *(found.start() for found in reversed(list(_PARTS.finditer(text))))]
    return next((text[:end] for end in ends if check(text[:end])), "")


TEXTS: Final = ("enum", "const", "description", "title", "examples", "default")
"""Keys of a JSON Schema whose texts are data; the others have names of fields."""
_PLACEHOLDER: Final = re.compile(r"\[[A-Z]{2,6}_\d{1,6}\]")


class Redaction:
    """Redacts the texts of one request. The same value gets the same placeholder in all of them."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self._patterns = [(name, *pattern) for name, pattern in PATTERNS.items() if name in names]
        self._placeholders: dict[str, str] = {}
        self._originals: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()
        self._taken = {found for text in texts for found in _PLACEHOLDER.findall(text)} if names else set()
        self._room = LONGEST_ANSWER

    def hide(self, value: Any) -> Any:
        """A copy of a JSON value whose texts have placeholders; keys stay."""
        if not self._patterns:
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
        for name, pattern, check in self._patterns:

            def replace(match: re.Match[str], name: str = name, check: Check | None = check) -> str:
                found = match[0]
                hidden = found if check is None else _valid(found, check)
                return self._placeholder(name, hidden) + found[len(hidden) :] if hidden else found

            text = pattern.sub(replace, text)
        return text

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
