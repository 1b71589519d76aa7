"""ONNX file reader: inputs, external data and weight formats of a graph, without the ``onnx`` library.

A device has no ``onnx`` library, and the runtime tells nothing of a graph before it has loaded the weights.
This module reads the few protobuf fields of ``onnx.proto`` that a check needs and skips all others, weights
included. The file is untrusted: lengths, depth and the number of fields are limited.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgeslm.errors import BundleError

ITEM_BYTES: Final = {1: 4, 2: 1, 3: 1, 10: 2, 16: 2}
"""Size in bytes of the tensor types float32, uint8, int8, float16 and bfloat16, by their number in
``TensorProto.DataType``."""
MOST_FIELDS: Final = 4_000_000
"""Largest number of fields that are read; a graph of 60 layers has some 100,000."""
DEEPEST: Final = 16
"""Maximum number of graphs within graphs."""
_VARINT, _LENGTH = 0, 2
_FIXED: Final = {1: 8, 5: 4}
_MOST_VARINT: Final = 10
_MOST_FIELD_NUMBER: Final = 2**29

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What a graph file says.

    :ivar inputs: data type (``TensorProto.DataType``) of each input of the main graph; 0 if unknown.
    :ivar outputs: names of the main graph's outputs.
    :ivar external: for each file with external weights, as the graph names it, the bytes that it must have.
    :ivar formats: number of ``MatMulNBits`` nodes by bits and group size.
    :ivar windowed: for each attention node whose cache is as long as its window (``sliding_window_cache``),
        where the file has the byte 1 that says so.
    """

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    external: dict[str, int] = field(default_factory=dict)
    formats: Counter[tuple[int, int]] = field(default_factory=Counter)
    windowed: list[int] = field(default_factory=list)


class _Damaged(Exception):
    pass


def read_onnx(file: Path) -> OnnxFile:
    """
    :raises BundleError: the file isn't an ONNX model, or is too complex.
    :raises OSError: it can't be read.
    """
    with file.open("rb") as stream:
        if not stream.seek(0, 2):
            raise BundleError(f"{file}: empty, so it isn't an ONNX model")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                reader = _Reader(data)
                reader.model()
            except (_Damaged, UnicodeDecodeError) as error:
                raise BundleError(f"{file}: not an ONNX model ({error}); download it again") from None
            return reader.found


class _Reader:
    """Walks the messages of ``onnx.proto``; the numbers are those of its fields."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._left, self._at = MOST_FIELDS, 0
        self.found = OnnxFile()

    def model(self) -> None:
        graphs = 0
        for number, value in self._fields((0, len(self._data))):
            if number == 7:
                graphs += 1
                self._graph(_span(value), 0)
            elif number == 25:  # functions
                for inner, node in self._fields(_span(value)):
                    if inner == 7:
                        self._node(_span(node), 0)
            elif number == 20:
                raise _Damaged("it has training graphs, which no bundle has")
        if graphs != 1:
            raise _Damaged("it has no graph" if not graphs else "it has several main graphs")

    def _graph(self, span: Span, depth: int) -> None:
        if depth > DEEPEST:
            raise _Damaged(f"graphs are nested more than {DEEPEST} deep")
        for number, value in self._fields(span):
            if number == 1:
                self._node(_span(value), depth)
            elif number == 5:
                self._tensor(_span(value))
            elif number == 15:
                self._sparse(_span(value))
            elif number == 11 and not depth:
                name, kind = self._value_info(_span(value))
                self.found.inputs[name] = kind
            elif number == 12 and not depth:
                self.found.outputs.append(self._value_info(_span(value))[0])

    def _node(self, span: Span, depth: int) -> None:
        operator, numbers = "", {}
        for number, value in self._fields(span):
            if number == 4:
                operator = self._text(value)
            elif number == 5:
                name, whole = self._attribute(_span(value), depth)
                numbers[name] = whole
        if operator == "MatMulNBits":
            self.found.formats[(numbers.get("bits", 4), numbers.get("block_size", 0))] += 1

    def _attribute(self, span: Span, depth: int) -> tuple[str, int]:
        name, whole, last = "", 0, 0
        for number, value in self._fields(span):
            if number == 1:
                name = self._text(value)
            elif number == 3 and isinstance(value, int):
                whole, last = value, self._at - 1
            elif number in (5, 10):
                self._tensor(_span(value))
            elif number in (6, 11):
                self._graph(_span(value), depth + 1)
            elif number in (22, 23):
                self._sparse(_span(value))
        if name == "sliding_window_cache" and whole:
            if whole != 1 or self._data[last] != 1:
                raise _Damaged(f"its {name} is {whole}, or is written in another way than 1")
            self.found.windowed.append(last)
        return name, whole

    def _sparse(self, span: Span) -> None:
        for number, value in self._fields(span):
            if number in (1, 2):
                self._tensor(_span(value))

    def _tensor(self, span: Span) -> None:
        entries: dict[str, str] = {}
        for number, value in self._fields(span):
            if number == 13:
                pair = {inner: self._text(text) for inner, text in self._fields(_span(value))}
                entries[pair.get(1, "")] = pair.get(2, "")
        if entries:
            place = entries.get("location", "")
            offset, length = (entries.get(key, "0") for key in ("offset", "length"))
            if not (offset.isdecimal() and length.isdecimal() and len(offset + length) < 40):
                raise _Damaged("the place of a weight isn't a number")
            end = int(offset) + int(length)
            self.found.external[place] = max(self.found.external.get(place, 0), end)

    def _value_info(self, span: Span) -> tuple[str, int]:
        name, kind = "", 0
        for number, value in self._fields(span):
            if number == 1:
                name = self._text(value)
            elif number == 2:
                for inner, tensor in self._fields(_span(value)):
                    if inner == 1:
                        types = [one for at, one in self._fields(_span(tensor)) if at == 1]
                        kind = types[-1] if types and isinstance(types[-1], int) else 0
        return name, kind

    def _text(self, value: int | Span) -> str:
        start, end = _span(value)
        if end - start > 4096:
            raise _Damaged("a name is too long")
        return self._data[start:end].decode()

    def _fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Yields number and value of each field; the value of a text, of bytes or of a message is its span in
        the file."""
        at, end = span
        while at < end:
            self._left -= 1
            if not self._left:
                raise _Damaged(f"it has more than {MOST_FIELDS:,} fields")
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < _MOST_FIELD_NUMBER:  # other readers would drop its upper bits
                raise _Damaged("it has a field of no known kind")
            if wire == _VARINT:
                value, at = self._varint(at, end)
                self._at = at
                yield number, value
            elif wire == _LENGTH:
                length, at = self._varint(at, end)
                if length > end - at:
                    raise _Damaged("it is truncated")
                at += length
                yield number, (at - length, at)
            elif wire in _FIXED:
                at += _FIXED[wire]
                if at > end:
                    raise _Damaged("it is truncated")
            else:
                raise _Damaged("it has a field of no known kind")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(_MOST_VARINT):
            if at >= end:
                raise _Damaged("it is truncated")
            byte = self._data[at]
            at += 1
            value |= (byte & 127) << 7 * shift
            if byte < 128:
                return value, at
        raise _Damaged("a number is too long")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise _Damaged("a number stands where a message belongs")
    return value
