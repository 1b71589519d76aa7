"""Regular expressions in schemas, matched in linear time by Rust's ``regex``, which comes with pydantic.

Expressions come from the configuration or a sender. Python's ``re`` takes exponential time for some
expressions, such as ``^(a|a)*$``. Look-around and backreferences can't be matched in linear time and are
refused, as in the engine's grammars.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Final

from pydantic import ConfigDict, StringConstraints, TypeAdapter

KEPT: Final = 4
"""Maximum number of compiled expressions in the cache; each expression may take megabytes of memory."""
_LINEAR: Final = ConfigDict(regex_engine="rust-regex", strict=True)
_COUNT: Final = re.compile(r"\{(\d{1,9})(?:(,)(\d{0,9}))?\}")
_PREFIX: Final = re.compile(r"\?(?:P?<\w{1,100}>|[a-zA-Z-]{0,10}:)")
_BRACES: Final = re.compile(r"\{[^{}]{0,100}\}")
_SIZES: Final = dict.fromkeys("wWpPbB", 500) | dict.fromkeys("dD", 50) | dict.fromkeys("sS", 20)
_CHARACTER: Final = 1
_CLASS: Final = 10


class PatternError(ValueError):
    """An unsupported regular expression. The exception's text gives only the reason; the caller adds which
    expression is invalid."""


@lru_cache(KEPT)
def make_matcher(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether a text contains a match.

    :raises PatternError: the expression is invalid, too large, or can't be matched in linear time.
    """
    text = Annotated[str, StringConstraints(pattern=pattern)]
    try:
        return TypeAdapter(text, config=_LINEAR).validator.isinstance_python
    except Exception as error:  # pydantic doesn't export the class
        raise PatternError(_reason(str(error))) from None


def _reason(words: str) -> str:
    if "size limit" in words:
        return "it is too large when its repetitions are written out"
    found = re.search(r"error: (.{1,200})", words)
    return found[1] if found else "it is not a regular expression"


def compiled_size(pattern: str) -> int:
    """Estimates an expression's compiled size in units of 100 bytes. A repetition such as ``a{50}`` counts as
    50 copies of the repeated expression, and a character class such as ``\\w`` as hundreds of ranges. For an
    invalid expression, the result is meaningless."""
    sums, last = [0], 0
    place = 0
    while place < len(pattern):
        letter = pattern[place]
        step, size = 1, 0
        if letter == "(":
            sums.append(0)
            found = _PREFIX.match(pattern, place + 1)
            place += 1 + (len(found[0]) if found else 0)
            last = 0
            continue
        if letter == ")" and len(sums) > 1:
            size = sums.pop()
        elif letter == "[":
            step, size = _class(pattern, place)
        elif letter == "\\":
            step, size = _escape(pattern, place)
        elif letter == "{" and (count := _COUNT.match(pattern, place)):
            most = max(int(count[1]), int(count[3] or 0))
            sums[-1] += last * (max(most, 1) - 1)
            last *= max(most, 1)
            place += len(count[0])
            continue
        elif letter == ".":
            size = _CLASS
        elif letter not in "*+?|^$":
            size = _CHARACTER
        else:
            place += 1
            continue
        sums[-1] += size
        last = size
        place += step
    return sum(sums)


def _escape(pattern: str, place: int) -> tuple[int, int]:
    """Length in characters and compiled size of an escape sequence."""
    letter = pattern[place + 1 : place + 2]
    found = _BRACES.match(pattern, place + 2) if letter in ("p", "P", "x", "u", "U") else None
    return 2 + (len(found[0]) if found else 0), _SIZES.get(letter, _CHARACTER)


def _class(pattern: str, start: int) -> tuple[int, int]:
    """Length in characters and compiled size of a character class, which may contain other classes."""
    depth, size, place = 0, _CLASS, start
    while place < len(pattern):
        letter = pattern[place]
        if letter == "\\":
            step, more = _escape(pattern, place)
            place, size = place + step, size + more
            continue
        if letter == "[":
            depth += 1
            if pattern.startswith("^", place + 1):
                place += 1
            if pattern.startswith("]", place + 1):  # a literal if it comes first
                place += 1
        elif letter == "]":
            depth -= 1
            if depth == 0:
                break
        size += _CHARACTER
        place += 1
    return place + 1 - start, size
