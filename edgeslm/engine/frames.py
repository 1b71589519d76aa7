"""Engine frames: the messages between a node and a worker process.

The worker first sends ``Ready``, or ``Refused`` if the model can't be loaded. For each ``Start``, the worker
sends any number of ``Chunk`` frames, then one ``Done`` or ``Failed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgeslm.engine.calls import Call, EngineInfo, Output
from edgeslm.ipc.codec import Frames, frames_to_child
from edgeslm.ipc.pipe import Refused


@dataclass(frozen=True, slots=True)
class Start:
    """Run a call."""

    number: int
    call: Call
    priority: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a call."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""

    info: EngineInfo


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of streamed text."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a call."""

    number: int
    output: Output


@dataclass(frozen=True, slots=True)
class Failed:
    """A call failed; ``code`` is the wire code of the error (``edgeslm.errors``)."""

    number: int
    code: str
    sentence: str


EngineMessage = Ready | Refused | Chunk | Done | Failed

TO_ENGINE: Final = frames_to_child(Start | Cancel)
FROM_ENGINE: Final = Frames(EngineMessage, 8 << 20)
"""Codec of the frames that a worker sends. A frame has at most 8 MiB, enough for the vectors of a few
thousand texts or for a text of 65,536 tokens."""
