"""Strict JSON: parsing with limits, and encoding that every JSON parser accepts. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise, repeat
from typing import Any, NoReturn

from edgeslm.errors import InvalidRequest

MAX_DEPTH = 32
MAX_CONTAINERS = 10_000
"""Largest number of objects and lists in one message, since a megabyte of ``[],[],`` would block the event
loop for a second."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def decode_text(payload: bytes) -> str:
    """Decodes UTF-8.

    :raises InvalidRequest: the payload isn't UTF-8; the error's text gives the position.
    """
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The payload isn't UTF-8 (byte {error.start} is wrong); encode the text as UTF-8."
        ) from None


def parse_json(text: str) -> Any:
    """Parses JSON. A lone surrogate becomes U+FFFD.

    :raises InvalidRequest: invalid JSON (NaN and infinity included), a duplicate name in an object, an
        integer beyond 64 bits, more than 32 levels, or more than 10,000 objects and lists.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise InvalidRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{error.msg} at line {error.lineno}, column {error.colno}.") from None
    mend = _SURROGATE_ESCAPE.search(text) is not None
    if not mend and text.count("{") + text.count("[") <= MAX_DEPTH:
        return value  # too few brackets to exceed a limit
    return _tidy(value, MAX_DEPTH, repeat(None, MAX_CONTAINERS), mend=mend)


def _tidy(value: Any, levels: int, budget: Iterator[None], *, mend: bool) -> Any:
    if isinstance(value, str):
        return _mended(value) if mend else value
    if not isinstance(value, dict | list):
        return value
    if not levels:
        raise InvalidRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    if not list(islice(budget, 1)):
        raise InvalidRequest(f"The JSON has more than {MAX_CONTAINERS} objects and lists.")
    if isinstance(value, dict):
        return {
            _mended(name) if mend else name: _tidy(item, levels - 1, budget, mend=mend)
            for name, item in value.items()
        }
    return [_tidy(item, levels - 1, budget, mend=mend) for item in value]


def _mended(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = sorted(name for name, _ in pairs)
        twice = next(name for name, following in pairwise(names) if name == following)
        raise InvalidRequest(f"The name {shown(twice)} appears twice in one object; keep one.")
    return made


def _whole_number(digits: str) -> int:
    # The length first: converting a million digits takes seconds.
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise InvalidRequest("A number is too large; whole numbers must fit into 64 bits.")
    return int(digits)


def _real_number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise InvalidRequest("A number is too large; numbers must be below 1.8e308.")
    return value


def _no_number(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} isn't a JSON number; leave it out or send null.")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole_number, parse_float=_real_number, parse_constant=_no_number
)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=dict)


def encode_json(value: Mapping[str, Any]) -> bytes:
    """Encodes strict UTF-8 JSON; infinity and NaN become null, and a lone surrogate becomes U+FFFD."""
    try:
        text = _ENCODER.encode(value)
    except ValueError:
        text = _ENCODER.encode(_finite(value))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _mended(text).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def shown(text: str, most: int = 40) -> str:
    """An untrusted name for use in a message, quoted and shortened to ``most`` characters."""
    return repr(text if len(text) <= most else text[:most] + "...")
