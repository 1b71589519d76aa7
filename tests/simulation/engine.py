"""Simulated engine processes: the worker's end of the pipe, without a process.

An engine answers each call with a text that depends only on the call's input, so that a wrong or foreign
result is seen. Faults make it slow, let it hang, crash, or send a frame that the node can't read.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from edgeslm.engine.calls import Call, Cost, Embed, EngineInfo, FindSpans, Output, Score, Text
from edgeslm.engine.frames import Cancel, Chunk, Done, Failed, Ready, Start
from edgeslm.engine.host.process import EngineProcess
from edgeslm.ipc.pipe import Refused
from tests.simulation.child import BaseChild
from tests.simulation.loop import PROCESS
from tests.simulation.others import is_hard, label_of

COST = Cost(prefill_ms=2.0, decode_ms=1.0, prompt_tokens=7, completion_tokens=3)

What = Literal["answer", "crash", "hang", "slow", "fail", "frame", "kill", "long"]
PIECE = 3
"""Characters of each piece of a streamed answer."""
LONG = 8000
"""Characters that a long answer has beside the usual ones."""
BROKEN = b"weights that no engine can load"
GLINER: Final = {"kind": "gliner", "label_token": 1, "text_token": 2, "longest": 8, "most_words": 99}
"""Manifest section of the model that finds names."""
PERSON = "Eva"
"""The name that it finds."""


def answer_to(text: str) -> str:
    """The right result for an input."""
    return "read " + hashlib.sha256(text.encode()).hexdigest()[:12]


def input_of(call: Call) -> str:
    if isinstance(call, Embed):
        return call.texts[0]
    prompt = getattr(call, "prompt", None)
    if prompt is None:
        return str(getattr(call, "text", ""))
    return [part.value for turn in prompt.turns for part in turn.parts if isinstance(part, Text)][-1]


def output_of(call: Call, text: str) -> Output:
    """The right output of a call about a text."""
    if isinstance(call, Embed):
        return Output(COST, vectors=tuple((0.6, 0.8) for _ in call.texts))
    if isinstance(call, Score):
        sure = 0.6 if is_hard(text) else 0.97
        scores = tuple(sure if label == label_of(text) else 1 - sure for label in call.labels)
        return Output(COST, probabilities=scores)
    if isinstance(call, FindSpans):
        found = tuple((one.start(), one.end(), 0.9) for one in re.finditer(PERSON, text))
        places = tuple(found if label == "person" else () for label in call.labels)
        return Output(COST, places=places, probabilities=tuple(0.9 if one else 0.0 for one in places))
    return Output(COST, text=answer_to(text), finish_reason="stop")


@dataclass
class EngineWorld:
    """What engines do. ``behave`` chooses for each call; ``on_run`` is told of each call that begins, and
    ``on_done`` of each that ended with an answer, both with the node's name and the input."""

    chance: random.Random
    behave: Callable[[str], What] = lambda text: "answer"
    on_run: Callable[[str, str], None] = lambda node, text: None
    on_done: Callable[[str, str], None] = lambda node, text: None
    on_crash: Callable[[str], None] = lambda node: None
    on_kill: Callable[[str], None] = lambda node: None
    """Called when a run kills its node."""
    finds: Callable[[], What] = lambda: "answer"
    """Chooses for each call that finds names."""
    usual_s: float = 0.02
    engines: dict[SimChild, None] = field(default_factory=dict)


WORLD: list[EngineWorld] = []
"""The engines' world of the current run."""


class SimChild(BaseChild):
    """Replaces :class:`edgeslm.ipc.process.Child` of an engine."""

    def __init__(
        self, sends: Any, takes: Any, on_message: Callable[[Any], None], on_lost: Callable[[str], None]
    ) -> None:
        super().__init__(sends, takes, on_message, on_lost)
        self._calls: deque[Start] = deque()
        self._cancelled: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._running: Start | None = None
        self.backlog_bytes = 0
        self.is_broken = False
        """Whether its model can't be loaded."""

    async def start(
        self, command: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.is_linked = True
        self.starts += 1
        self._loop = asyncio.get_running_loop()
        process = PROCESS.get()
        self._node = process.name if process is not None else ""
        self._world = WORLD[-1]
        self._world.engines[self] = None
        delay_s = self._world.chance.uniform(0.005, 0.1)
        said: Any = Ready(EngineInfo("decoder", 2048, 1, 0.0, False))
        if self.is_broken:
            said = Refused("the model can't be loaded")
        self._loop.call_later(delay_s, self._say, self.starts, said)

    def _say(self, start: int, message: Any) -> None:
        if self.is_linked and start == self.starts:
            self._on_message(message)

    def _say_if_running(self, start: int, running: Start, piece: Chunk) -> None:
        if self._running is running:
            self._say(start, piece)

    def send(self, message: Start | Cancel) -> None:
        if not self.is_linked:
            return
        if isinstance(message, Start):
            self._calls.append(message)
            if self._running is None:
                self._next()
        else:
            self._cancel(message.number)

    def _cancel(self, number: int) -> None:
        """A waiting call is answered when its turn comes, so never by a worker that hangs."""
        if self._running is None or self._running.number != number:
            self._cancelled.add(number)
        elif self._what != "hang":
            if self._timer is not None:
                self._timer.cancel()
            self._later(0.001, self._end, self.starts, Failed(number, "cancelled", "cancelled"))

    def _later(self, delay_s: float, call: Callable[..., None], *values: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s, call, *values)

    def _next(self) -> None:
        if not self._calls or not self.is_linked:
            return
        self._running = running = self._calls.popleft()
        if running.number in self._cancelled:
            self._cancelled.discard(running.number)
            self._what = "answer"
            failed = Failed(running.number, "cancelled", "cancelled")
            self._timer = self._later(0.0001, self._end, self.starts, failed)
            return
        text = input_of(running.call)
        is_search = isinstance(running.call, FindSpans)
        self._what = what = self._world.finds() if is_search else self._world.behave(text)
        if not is_search:
            self._world.on_run(self._node, text)
        took_s = self._world.chance.uniform(0.2, 2.0) * self._world.usual_s
        if what == "hang":
            return
        if what == "slow":
            took_s *= 100
        if getattr(running.call, "stream", False):
            for part in range(1, 4):
                piece = Chunk(running.number, answer_to(text)[PIECE * (part - 1) : PIECE * part])
                self._later(took_s * part / 4, self._say_if_running, self.starts, running, piece)
        self._timer = self._later(took_s, self._finish, self.starts, what, running, text)

    def _finish(self, start: int, what: What, running: Start, text: str) -> None:
        if start != self.starts or not self.is_linked:
            return
        if what == "crash":
            self._end_process("signal 9")
        elif what == "kill":
            self._world.on_kill(self._node)
        elif what == "frame":
            self._end_process("it sent an invalid message")
        elif what == "fail":
            self._end(start, Failed(running.number, "no_memory", "there is no memory for it"))
        else:
            if not isinstance(running.call, FindSpans):
                self._world.on_done(self._node, text)
            output = output_of(running.call, text)
            if what == "long":
                output = replace(output, text=answer_to(text) + "." * LONG)
            self._end(start, Done(running.number, output))

    def _end(self, start: int, message: Done | Failed) -> None:
        if start != self.starts or not self.is_linked:
            return
        self._running = None
        self._on_message(message)
        if self._running is None:
            self._next()

    def _end_process(self, how: str) -> None:
        if self.is_linked:
            if self._running is not None and not isinstance(self._running.call, FindSpans):
                self._world.on_crash(self._node)
            self.bury()
            self._on_lost(how)

    def close(self) -> None:
        self.is_linked = False
        self._calls.clear()
        self._cancelled.clear()
        self._running = None
        if self._timer is not None:
            self._timer.cancel()

    def kill(self) -> None:
        if self.is_linked:
            self._later(0.001, self._end_process, "signal 9")

    def bury(self) -> str:
        self.close()
        return "signal 9"

    async def stop(self, grace_s: float) -> bool:
        self.close()
        await asyncio.sleep(0.001)
        return False


class SimEngine(EngineProcess):
    """An engine of the product with a simulated process."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        child: Any = SimChild(None, None, self._handle, self._lost)
        child.is_broken = (self.bundle / "model.onnx").read_bytes() == BROKEN
        self._child = child
