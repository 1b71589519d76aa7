"""Frames: every message there and back, and nothing but messages out of hostile bytes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import struct
from array import array
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeslm.console.wire import FROM_CONSOLE
from edgeslm.engine.calls import Cost, Embed, Generate, Output, Prompt, Text, Turn
from edgeslm.engine.frames import FROM_ENGINE, TO_ENGINE, Chunk, Done, Start
from edgeslm.ipc.codec import FLOAT32, FrameError, Frames
from edgeslm.knowledge.service.frames import FROM_COLLECTIONS, TO_COLLECTIONS

ALL = {
    "to engine": TO_ENGINE,
    "from engine": FROM_ENGINE,
    "to collections": TO_COLLECTIONS,
    "from collections": FROM_COLLECTIONS,
    "from console": FROM_CONSOLE,
}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
VECTORS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=4).map(tuple)
SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    NoneType: st.none(),
    Any: st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
        max_leaves=4,
    ),
}
SIMPLE[dict[str, Any]] = st.dictionaries(TEXTS, SIMPLE[Any], max_size=2)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """By the annotation, as the codec reads it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in SIMPLE:
        return SIMPLE[kind]
    if FLOAT32 in arguments:
        return VECTORS
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of(*map(values_of, arguments))
    if origin is tuple and arguments[-1] is ...:
        return st.lists(values_of(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arguments))
    assert is_dataclass(kind) and isinstance(kind, type)
    hints = get_type_hints(kind, include_extras=True)
    return st.builds(kind, **{each.name: values_of(hints[each.name]) for each in fields(kind)})


def frame_of(value: Any, numbers: bytes = b"") -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("!I", len(data)) + data + numbers


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, frames in ALL.items() for kind in get_args(frames.carries)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_message_comes_back_as_it_was(name: str, kind: type) -> None:
    frames = ALL[name]

    @given(values_of(kind))
    def there_and_back(message: Any) -> None:
        back = frames.decode(frames.encode(message))
        assert (back, type(back)) == (message, kind)

    there_and_back()


@dataclass
class Evil:
    """Leaves a file behind when it is unpickled."""

    trap: Path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trap}",)


@pytest.mark.parametrize("frames", ALL.values(), ids=ALL)
def test_a_pickle_is_no_message_and_is_not_run(frames: Frames, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for data in (
        pickle.dumps(Evil(trap)),
        pickle.dumps(("done", 1, Evil(trap))),
        pickle.dumps(Chunk(1, "x")),
    ):
        for frame in (data, frame_of(data)):
            with pytest.raises(FrameError):
                frames.decode(frame)
    assert not trap.exists()


@given(st.sampled_from(sorted(ALL)), st.binary() | st.binary().map(frame_of))
def test_any_bytes_are_a_message_or_a_frame_error(name: str, data: bytes) -> None:
    with contextlib.suppress(FrameError):
        ALL[name].decode(data)


@given(st.sampled_from(sorted(ALL)), st.data())
def test_damaged_frames_are_a_message_or_a_frame_error(name: str, data: st.DataObject) -> None:
    """Damage that still is a message has it in the right types: it can be sent on."""
    frames = ALL[name]
    frame = bytearray(frames.encode(data.draw(values_of(frames.carries))))
    for place in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=3)):
        frame[place] = data.draw(st.sampled_from(b'[]",0123456789.eE-N\\ud\xff\x00'))
    try:
        message = frames.decode(frame)
    except FrameError:
        return
    assert frames.encode(message)


GOOD = ["Chunk", [1, "text"]]


@given(st.sampled_from([FROM_ENGINE]), SIMPLE[Any])
@example(FROM_ENGINE, ["Chunk", [1, 5]])
@example(FROM_ENGINE, ["Chunk", ["1", "text"]])
@example(FROM_ENGINE, ["Chunk", [True, "text"]])
@example(FROM_ENGINE, ["Chunk", [1.0, "text"]])
@example(FROM_ENGINE, ["Chunk", [2**63, "text"]])
@example(FROM_ENGINE, ["Chunk", [1, None]])
@example(FROM_ENGINE, ["Chunk", [1, "\ud800"]])
@example(FROM_ENGINE, ["Chunk", [1]])
@example(FROM_ENGINE, ["Chunk", [1, "text", 2]])
@example(FROM_ENGINE, ["Chunk", {"number": 1, "text": "text"}])
@example(FROM_ENGINE, ["Start", [1, "text"]])
@example(FROM_ENGINE, ["Chunk"])
@example(FROM_ENGINE, [["Chunk"], [1, "text"]])
@example(FROM_ENGINE, {"Chunk": [1, "text"]})
def test_what_has_other_types_is_refused(frames: Frames, value: Any) -> None:
    with pytest.raises(FrameError):
        frames.decode(frame_of(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 90_000,
        b'["Ready",[["encoder",1,1,' + b"[" * 90_000,
        b'["Chunk",[' + b"9" * 5000 + b',"x"]]',
        b'["Ready",[["encoder",1,1,NaN,false]]]',
        b'["Ready",[["encoder",1,1,Infinity,false]]]',
        b'["Ready",[["encoder",1,1,1e999,false]]]',
        b'["Chunk",[1,"x"]] ["Chunk",[1,"x"]]',
        b'["Chunk",[1,"\xff"]]',
        b"[" + b"[]," * 100_001 + b"[]]",
    ],
    ids=["nothing", "deep", "deep inside", "digits", "nan", "inf", "1e999", "two", "no UTF-8", "many lists"],
)
def test_json_that_costs_or_means_nothing_is_refused(data: bytes) -> None:
    assert FROM_ENGINE.decode(frame_of(GOOD)) == Chunk(1, "text")
    with pytest.raises(FrameError):
        FROM_ENGINE.decode(frame_of(data))


def test_lists_that_would_take_much_more_than_their_bytes_are_not_made() -> None:
    with pytest.raises(FrameError, match="too many lists"):
        FROM_ENGINE.decode(frame_of(b"[" + b"[]," * 100_000 + b"[]]"))
    brackets = Chunk(1, "[" * 100_001)
    with pytest.raises(FrameError, match="too many"):
        FROM_ENGINE.encode(brackets)
    start = Start(1, Embed(("[" * 100_001,)), 5)
    assert TO_ENGINE.decode(TO_ENGINE.encode(start)) == start


def test_a_vector_has_just_the_numbers_that_it_says() -> None:
    output = Output(Cost(), vectors=((0.5, -1.0), (2.0, 3.0)))
    frame = FROM_ENGINE.encode(Done(7, output))
    assert frame.endswith(array("f", [0.5, -1, 2, 3]).tobytes())
    for bad in (frame[:-1], frame[:-4], frame + b"\0\0\0\0", frame[:-4] + array("f", [math.nan]).tobytes()):
        with pytest.raises(FrameError):
            FROM_ENGINE.decode(bad)
    for count in ("-1", "3", "2.0", "9007199254740993", "true"):
        (size,) = struct.unpack_from("!I", frame)
        text = frame[4 : 4 + size].replace(b"[2,2]", f"[{count},2]".encode())
        with pytest.raises(FrameError):
            FROM_ENGINE.decode(frame_of(text, frame[4 + size :]))


def test_frames_are_bounded_in_both_directions() -> None:
    small = Frames(Chunk, 100)
    assert small.decode(small.encode(Chunk(1, "x" * 80))).text == "x" * 80
    with pytest.raises(FrameError, match="too many for a frame"):
        small.encode(Chunk(1, "x" * 100))
    with pytest.raises(FrameError, match=r"^a frame of \d+ bytes$"):
        small.decode(Frames(Chunk, 1000).encode(Chunk(1, "x" * 100)))


@pytest.mark.parametrize(
    "message",
    [
        Chunk(1, None),  # type: ignore[arg-type]
        Chunk(2**63, "x"),
        ("chunk", 1, "x"),
        Start(1, Embed(("x",)), 5),
        Done(1, Output(distance=math.nan)),
        Done(1, Output(vectors=((math.inf,),))),
        Done(1, Output(vectors=(("x",),))),  # type: ignore[arg-type]
        Done(1, Output(probabilities=[0.5])),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_what_is_no_message_is_not_sent(message: Any) -> None:
    with pytest.raises(FrameError):
        FROM_ENGINE.encode(message)


def test_prompts_keep_what_is_ours_and_what_is_from_outside_apart() -> None:
    prompt = Prompt((Turn("user", ("Read: ", Text('["str","x"]', cut=True), "\0\n\u2028")),))
    start = Start(1, Generate(prompt, 8, stop=("\n",)), 5)
    assert TO_ENGINE.decode(TO_ENGINE.encode(start)) == start
    with pytest.raises(FrameError):
        bad = Generate(Prompt((Turn("judge", ()),)), 8)  # type: ignore[arg-type]
        TO_ENGINE.encode(Start(1, bad, 5))


def test_halves_of_surrogate_pairs_are_mended() -> None:
    assert FROM_ENGINE.decode(FROM_ENGINE.encode(Chunk(1, "a\ud800\U0001f600"))).text == "a\ufffd\U0001f600"
