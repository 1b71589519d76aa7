"""Engine frames: the messages between a node and the process of one of its engines.

The process says ``Ready``, or ``Refused`` if the model can't be loaded, once; then to each ``Start`` any
number of ``Chunk`` and one ``Done`` or ``Failed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeslm.engine.calls import Call, EngineInfo, Output
from edgeslm.ipc.codec import Frames, frames_to_child
from edgeslm.ipc.pipe import Refused


@dataclass(frozen=True, slots=True)
class Start:
    """An order to run a call."""

    number: int
    call: Call
    priority: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """An order to give a call up."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a text that is being written."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a call."""

    number: int
    output: Output


@dataclass(frozen=True, slots=True)
class Failed:
    """A call has no answer; ``code`` is that of a request's error."""

    number: int
    code: str
    sentence: str


Said = Ready | Refused | Chunk | Done | Failed

TO_ENGINE: Final = frames_to_child(Start | Cancel)
FROM_ENGINE: Final = Frames(Said, 8 << 20)
"""Vectors of a few thousand texts, or 65,536 tokens of the longest."""
