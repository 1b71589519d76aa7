"""Redaction: replaces personal and secret data in texts by placeholders, and puts them back in the answer.

Matching takes linear time. The expressions find what has the form of an address or a number; names of persons
and places aren't found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final


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
    packed = text.replace(" ", "")
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
PATTERNS: Final[Mapping[str, tuple[re.Pattern[str], Check | None]]] = {
    "url": (re.compile(r"(?<!\w)(?:https?|ftp|wss?|mqtts?)://[^\s<>\"']+", re.IGNORECASE), None),
    "email": (re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*"), None),
    "mac": (re.compile(r"(?<![\w:-])(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}(?![\w:-])"), None),
    "ip": (
        re.compile(
            r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"
            r"|(?<!\w)(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:\.\d{1,3}){0,3}(?!\w)"
        ),
        _is_ip,
    ),
    "iban": (
        re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"),
        _is_iban,
    ),
    "card": (re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,22}(?!\w)"), _is_card),
    "phone": (
        re.compile(
            r"(?:(?<!\w)\+\d{1,3}"
            r"|(?<![\w.,:-])(?:00\d{1,3}|\(0?\d{2,5}\)|0\d{1,5}|\d{3}(?=[-. ]\d{3}[-. ]\d{4})))"
            r"(?:[ ()/.-]{0,3}\d){4,14}(?!\w)"
        ),
        _is_phone,
    ),
    "number": (re.compile(r"(?<!\w)\w*\d{4}\w*"), None),
}
"""Name -> expression, and a check of what it matches. They are applied in this order."""
_PARTS: Final = re.compile(r"[ -]")


def _valid(text: str, check: Check) -> str:
    """The longest beginning of a match that passes the check: an expression may take the next word, too."""
    ends = [len(text), *(found.start() for found in reversed(list(_PARTS.finditer(text))))]
    return next((text[:end] for end in ends if check(text[:end])), "")


class Redaction:
    """Redacts the texts of one request. The same value gets the same placeholder in all of them."""

    def __init__(self, names: Sequence[str], texts: Sequence[str]) -> None:
        self._patterns = [(name, *pattern) for name, pattern in PATTERNS.items() if name in names]
        self._placeholders: dict[str, str] = {}
        self._taken = {found for text in texts for found in re.findall(r"\[[A-Z]{2,6}_\d{1,6}\]", text)}

    def hide(self, value: Any) -> Any:
        """A copy of a JSON value whose texts have placeholders."""
        if isinstance(value, str):
            return self._hide(value)
        if isinstance(value, Mapping):
            return {key: self.hide(item) for key, item in value.items()}
        return [self.hide(item) for item in value] if isinstance(value, list | tuple) else value

    def restore(self, value: Any) -> Any:
        """A copy of a JSON value with the original data instead of placeholders."""
        if isinstance(value, str):
            for original, placeholder in self._placeholders.items():
                value = value.replace(placeholder, original)
            return value
        if isinstance(value, Mapping):
            return {key: self.restore(item) for key, item in value.items()}
        return [self.restore(item) for item in value] if isinstance(value, list | tuple) else value

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
            number = 1
            while (placeholder := f"[{name.upper()}_{number}]") in self._taken:
                number += 1
            self._taken.add(placeholder)
            self._placeholders[original] = placeholder
        return self._placeholders[original]
