"""Frames: serialization of typed messages between processes, based on annotations of frozen dataclasses.

A child's messages are untrusted: a malicious document or bundle may control the child. Decoding builds only
the annotated types; anything else raises :class:`FrameError`. A frame consists of the length of its JSON, the
JSON, and the float32 values of all vectors. The JSON represents a dataclass by the list of its fields, a
vector by its length, and a union member by the name of its type and its value.

Entry point: :class:`Frames`, the codec for one direction of a pipe.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import struct
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from operator import attrgetter
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

FLOAT32: Final = "float32"
Vector = Annotated[Sequence[float], FLOAT32]
"""A vector of finite numbers, which is sent as float32 and decoded as a tuple."""

_JSON_BYTES: Final = struct.Struct("!I")
_NUMBER_BYTES: Final = 4
_LARGEST: Final = 2**63
"""Exclusive upper limit of integers in a message."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class FrameError(ValueError):
    """Invalid bytes, or a message that can't be encoded. Never quotes content."""


@dataclasses.dataclass(frozen=True)
class Frames:
    """Codec for one direction of a pipe.

    :param carries: the message type: a dataclass, or a union of dataclasses.
    :param most_bytes: size limit of a frame, in bytes.
    :param most_containers: maximum number of lists and objects in the JSON, each of which takes 20 times as
        much memory as its JSON text; brackets in texts are counted too. None: no limit.
    """

    carries: Any
    most_bytes: int
    most_containers: int | None = 100_000

    @cached_property
    def _form(self) -> _Form:
        return _form_of(self.carries)

    def encode(self, message: Any) -> bytes:
        """:raises FrameError: the message has another type, or is too long."""
        vectors: list[bytes] = []
        form = self._form
        try:
            text = _ENCODER.encode(form.encode(message, vectors))
        except FrameError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise FrameError(f"no frame can be made of it ({type(error).__name__})") from None
        data = text.encode("utf-8", "surrogatepass")
        frame = b"".join((_JSON_BYTES.pack(len(data)), data, *vectors))
        if len(frame) > self.most_bytes or self._has_too_many(text):
            raise FrameError(f"the message has {len(frame)} bytes, too many for a frame")
        return frame

    def decode(self, frame: bytes | bytearray) -> Any:
        """:raises FrameError: the bytes are invalid; no other exception is raised."""
        if not _JSON_BYTES.size <= len(frame) <= self.most_bytes:
            raise FrameError(f"a frame of {len(frame)} bytes")
        (size,) = _JSON_BYTES.unpack_from(frame)
        end = _JSON_BYTES.size + size
        if end > len(frame):
            raise FrameError("a frame that is shorter than its JSON")
        numbers, form = _Numbers(frame, end), self._form
        try:
            text = frame[_JSON_BYTES.size : end].decode("utf-8", "surrogatepass")
            if self._has_too_many(text):
                raise FrameError("a frame with too many lists")
            value, read = _DECODER.raw_decode(text)
            if read != len(text):
                raise FrameError("a frame with more than one value")
            message = form.decode(value, numbers)
        except FrameError:
            raise
        except (ValueError, RecursionError) as error:
            raise FrameError(f"a frame that is not JSON ({type(error).__name__})") from None
        if numbers.place != len(frame):
            raise FrameError("a frame with numbers of no vector")
        return message

    def _has_too_many(self, text: str) -> bool:
        most = self.most_containers
        return most is not None and len(text) > most and text.count("[") + text.count("{") > most


def frames_to_child(carries: Any) -> Frames:
    """Frames from the node to a child; the child trusts the node.

    A frame can hold MQTT's largest message, which has 256 MB.
    """
    return Frames(carries, 1 << 29, most_containers=None)


class _Numbers:
    """Reads the float32 values of a frame in order."""

    __slots__ = ("frame", "place")

    def __init__(self, frame: bytes | bytearray, place: int) -> None:
        self.frame = frame
        self.place = place

    def take(self, count: int) -> tuple[float, ...]:
        end = self.place + _NUMBER_BYTES * count
        if not self.place <= end <= len(self.frame):
            raise FrameError("a frame that is shorter than its vectors")
        vector = struct.unpack_from(f"{count}f", self.frame, self.place)
        self.place = end
        if not math.isfinite(sum(vector)):
            raise FrameError("a vector with a value that is not a number")
        return vector


_Encode = Callable[[Any, list[bytes]], Any]
_Decode = Callable[[Any, _Numbers], Any]


class _Form(NamedTuple):
    """Encoder and decoder of one type."""

    encode: _Encode
    decode: _Decode


@cache
def _form_of(kind: Any) -> _Form:
    """:raises TypeError: frames don't support the type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if origin is Annotated and FLOAT32 in arguments:
        return _Form(_encode_vector, _decode_vector)
    if origin is Literal and all(type(choice) is str for choice in arguments):
        choose = partial(_choose, frozenset(arguments))
        return _Form(choose, choose)
    if origin is tuple and arguments[1:] == (...,):
        each = _form_of(arguments[0])
        return _Form(partial(_encode_all, each.encode), partial(_decode_all, each.decode))
    if origin is tuple:
        return _row_form(tuple(map(_form_of, arguments)))
    if origin in (Union, UnionType):
        return _union_form(arguments)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_form(kind)
    raise TypeError(f"frames don't carry {kind}")


# --- simple values ----------------------------------------------------------------------------------


def _encode_text(value: Any, _: list[bytes]) -> str:
    if not isinstance(value, str):
        raise _wrong("str", value)
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, such as from a file name that isn't UTF-8
        return _SURROGATE.sub("\ufffd", value)
    return value


def _decode_text(value: Any, _: _Numbers) -> str:
    if type(value) is not str:
        raise _wrong("str", value)
    if not value.isascii():
        value.encode()  # raises UnicodeEncodeError, a ValueError
    return value


def _whole(value: Any, _: Any) -> int:
    if type(value) is not int or not -_LARGEST <= value < _LARGEST:
        raise _wrong("int", value)
    return value


def _real(value: Any, _: Any) -> float:
    if isinstance(value, float) and math.isfinite(value):
        return value
    if type(value) is int and -_LARGEST <= value < _LARGEST:
        return float(value)
    raise _wrong("float", value)


def _truth(value: Any, _: Any) -> bool:
    if type(value) is not bool:
        raise _wrong("bool", value)
    return value


def _object(value: Any, _: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _wrong("object", value)
    return value


def _encode_vector(value: Any, vectors: list[bytes]) -> int:
    try:
        count = len(value)
        vectors.append(struct.pack(f"{count}f", *value))
        is_finite = math.isfinite(sum(value))
    except (TypeError, OverflowError, struct.error):
        raise _wrong("vector", value) from None
    if not is_finite:
        raise _wrong("vector", value)
    return count


def _decode_vector(value: Any, numbers: _Numbers) -> tuple[float, ...]:
    return numbers.take(_whole(value, None))


def _choose(choices: frozenset[str], value: Any, _: Any) -> str:
    if type(value) is not str or value not in choices:
        raise _wrong("one of the choices", value)
    return value


_SIMPLE: dict[Any, _Form] = {
    str: _Form(_encode_text, _decode_text),
    int: _Form(_whole, _whole),
    float: _Form(_real, _real),
    bool: _Form(_truth, _truth),
    Any: _Form(lambda value, _: value, lambda value, _: value),
    dict[str, Any]: _Form(_object, _object),
}
"""Codecs of the simple types. ``Any`` is any JSON value, which the receiver has to check."""


# --- containers -------------------------------------------------------------------------------------


def _encode_all(encode: _Encode, value: Any, vectors: list[bytes]) -> list[Any]:
    if not isinstance(value, tuple):
        raise _wrong("tuple", value)
    return [encode(item, vectors) for item in value]


def _decode_all(decode: _Decode, value: Any, numbers: _Numbers) -> tuple[Any, ...]:
    if type(value) is not list:
        raise _wrong("list", value)
    return tuple([decode(item, numbers) for item in value])


def _row_form(forms: tuple[_Form, ...]) -> _Form:
    """Codec of a tuple with a fixed length."""

    def encode(value: Any, vectors: list[bytes]) -> list[Any]:
        if not isinstance(value, tuple) or len(value) != len(forms):
            raise _wrong(f"tuple of {len(forms)}", value)
        return [form.encode(item, vectors) for form, item in zip(forms, value, strict=True)]

    def decode(value: Any, numbers: _Numbers) -> tuple[Any, ...]:
        if type(value) is not list or len(value) != len(forms):
            raise _wrong(f"list of {len(forms)}", value)
        return tuple([form.decode(item, numbers) for form, item in zip(forms, value, strict=True)])

    return _Form(encode, decode)


def _dataclass_form(kind: Any) -> _Form:
    hints = get_type_hints(kind, include_extras=True)
    fields = [(each.name, _form_of(hints[each.name])) for each in dataclasses.fields(kind)]
    encoders = [form.encode for _, form in fields]
    decoders = [form.decode for _, form in fields]
    names, name, count = [name for name, _ in fields], kind.__name__, len(fields)
    read_all = attrgetter(*names) if count > 1 else lambda value: [getattr(value, each) for each in names]

    def encode(value: Any, vectors: list[bytes]) -> list[Any]:
        if type(value) is not kind:
            raise _wrong(name, value)
        return [encode(each, vectors) for encode, each in zip(encoders, read_all(value), strict=True)]

    def decode(value: Any, numbers: _Numbers) -> Any:
        if type(value) is not list or len(value) != count:
            raise _wrong(name, value)
        return kind(*[decode(item, numbers) for decode, item in zip(decoders, value, strict=True)])

    return _Form(encode, decode)


def _union_form(kinds: tuple[Any, ...]) -> _Form:
    """Codec of a union. Members are tagged with their type's name; ``X | None`` needs no tag."""
    members = [kind for kind in kinds if kind is not NoneType]
    is_optional = len(members) < len(kinds)
    if is_optional and len(members) == 1:
        (member,) = map(_form_of, members)
        return _optional(member)
    by_kind = {kind: (kind.__name__, _form_of(kind).encode) for kind in members}
    by_name = {kind.__name__: _form_of(kind).decode for kind in members}

    def encode(value: Any, vectors: list[bytes]) -> list[Any]:
        found = by_kind.get(type(value))
        if found is None:
            raise _wrong("member of a union", value)
        name, encode_member = found
        return [name, encode_member(value, vectors)]

    def decode(value: Any, numbers: _Numbers) -> Any:
        if type(value) is not list or len(value) != 2 or type(value[0]) is not str:
            raise _wrong("member of a union", value)
        decode_member = by_name.get(value[0])
        if decode_member is None:
            raise FrameError("an unknown kind of value")
        return decode_member(value[1], numbers)

    form = _Form(encode, decode)
    return _optional(form) if is_optional else form


def _optional(form: _Form) -> _Form:
    return _Form(
        lambda value, vectors: None if value is None else form.encode(value, vectors),
        lambda value, numbers: None if value is None else form.decode(value, numbers),
    )


def _wrong(expected: str, value: Any) -> FrameError:
    return FrameError(f"{type(value).__name__} where {expected} is needed")


def _refuse(_: str) -> NoReturn:
    raise FrameError("a number that JSON doesn't have")


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)
