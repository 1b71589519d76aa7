"""Fake engine process: speaks the worker's side of the pipe and does what the input says.

    python tests/support/fake_worker.py FD BUNDLE THREADS LOG_LEVEL POWER DEVICE CACHE

An input that starts with one of these words is a command; any other is answered at once:

- ``hold FILE``: make FILE.held, then wait until the file exists or the call is cancelled
- ``pour FILE``: the same, with the pieces of a stream sent before
- ``crash``: end by SIGKILL; ``crash-once FILE``: the same, unless the file exists, which it then does. The
  first piece of a stream is sent before
- ``fail CODE``: the error result with that code

If a bundle's weights start with ``crash at load`` or ``crash at once``, it ends while loading or at the first
call; with ``wrong`` it chooses another label. Without the file that the variable ``FAKE_LOAD`` names, the
model isn't loaded. A decoder is prepacked if there is a folder for prepacked bundles.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import sys
import threading
import time
from pathlib import Path

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import (
    Call,
    Classify,
    Cost,
    Embed,
    EngineInfo,
    FindSpans,
    Generate,
    LabelText,
    Output,
    Point,
    Pointed,
    Read,
    Score,
    Text,
    ToolCall,
)
from edgeslm.engine.frames import FROM_ENGINE, TO_ENGINE, Chunk, Done, Failed, Ready, Start
from edgeslm.ipc.pipe import Pipe

COST = Cost(prefill_ms=2.0, decode_ms=1.0, prompt_tokens=7, completion_tokens=3)
POLL_S = 0.005


class Worker:
    """Runs calls in order; handles cancels at any time."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._calls: queue.SimpleQueue[tuple[int, Call]] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    def serve(self, bundle: Path, cache: Path) -> None:
        threading.Thread(target=self._read, daemon=True).start()
        if gate := os.environ.get("FAKE_LOAD"):
            self._wait_for(Path(gate), -1)
        kind = load_bundle(bundle).manifest.kind
        weights = (bundle / "model.onnx").read_bytes()
        if weights.startswith(b"crash at load"):
            os.kill(os.getpid(), signal.SIGKILL)
        self._crashes = weights.startswith(b"crash at once")
        self._is_wrong = weights.startswith(b"wrong")
        is_prepared = kind == "decoder" and cache.is_dir()
        self._pipe.send(Ready(EngineInfo(kind, 2048, 1, 0.0, is_prepared)))
        while True:
            number, call = self._calls.get()
            self._pipe.send(self._answer(number, call))
            self._cancelled -= {late for late in list(self._cancelled) if late <= number}

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                order = self._pipe.receive()
                if isinstance(order, Start):
                    self._calls.put((order.number, order.call))
                else:
                    self._cancelled.add(order.number)
        os._exit(0)

    def _wait_for(self, file: Path, number: int) -> None:
        while not file.exists() and number not in self._cancelled:
            time.sleep(POLL_S)

    def _answer(self, number: int, call: Call) -> Done | Failed:
        text = _input_of(call)
        order, _, rest = text.partition(" ")
        if self._crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        if order == "hold":
            Path(rest + ".held").touch()
            self._wait_for(Path(rest), number)
        elif order == "pour":
            if isinstance(call, Generate) and call.stream:
                for piece in (order, f" {rest}"):
                    self._pipe.send(Chunk(number, piece))
            Path(rest + ".held").touch()
            self._wait_for(Path(rest), number)
            if isinstance(call, Generate) and number not in self._cancelled:
                return Done(number, Output(COST, text=text, finish_reason="stop"))
        elif order == "crash" or (order == "crash-once" and not Path(rest).exists()):
            if rest:
                Path(rest).touch()
            if isinstance(call, Generate) and call.stream:
                self._pipe.send(Chunk(number, order))
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "fail":
            return Failed(number, rest, "The fake engine was told to.")
        if number in self._cancelled:
            return Failed(number, "cancelled", "cancelled while it was running")
        return Done(number, self._output(number, call, text))

    def _output(self, number: int, call: Call, text: str) -> Output:
        if isinstance(call, Score | LabelText):
            chosen = next((i for i, label in enumerate(call.labels) if label in text), 0)
            chosen = (chosen + self._is_wrong) % len(call.labels)
            rest = 0.1 / (len(call.labels) - 1)
            return Output(
                COST, probabilities=tuple(0.9 if i == chosen else rest for i in range(len(call.labels)))
            )
        if isinstance(call, FindSpans):
            found = tuple((*match.span(), 0.9) for match in _NAME.finditer(call.text))
            places = tuple(found if label == "person" else () for label in call.labels)
            return Output(COST, probabilities=(0.9,) * len(places), places=places)
        if isinstance(call, Generate):
            if calls := _calls_for(call, text):
                return Output(COST, calls=calls, finish_reason="stop")
            said = _fields_for(call) if call.guide and call.guide.kind == "json_schema" else text
            if call.stream:
                first, *others = said.split(" ")
                for piece in (first, *(f" {other}" for other in others)):
                    self._pipe.send(Chunk(number, piece))
            return Output(COST, text=said, finish_reason="stop")
        if isinstance(call, Embed):
            return Output(COST, vectors=tuple((0.6, 0.8) for _ in call.texts))
        if isinstance(call, Point):
            return Output(COST, fields=_pointed(call))
        if isinstance(call, Read):
            most = call.text_tokens or 512
            cut = tuple(number for number, text in enumerate(call.texts) if len(text.split()) > most)
            return Output(COST, probabilities=tuple(map(_relevance, call.texts)), cut=cut)
        return Output(COST, probabilities=_labelled(call, text))


_NAME = re.compile(r"\b(?:Max|Eva) [A-Z]\w+")
"""The persons that a fake zero-shot model knows."""


def _input_of(call: Call) -> str:
    """The input text; the last one in a prompt."""
    if isinstance(call, Embed):
        return call.texts[0]
    if isinstance(call, Classify | Point | LabelText | FindSpans):
        return call.text
    if isinstance(call, Read):
        return call.question
    texts = [part.value for turn in call.prompt.turns for part in turn.parts if isinstance(part, Text)]
    return texts[-1]


def _relevance(text: str) -> float:
    """The number that the text begins with, else a half."""
    first = text.partition(" ")[0]
    return float(first) if first.startswith("0.") else 0.5


def _fields_for(call: Generate) -> str:
    assert call.guide is not None
    return _object_of(call.guide.source)


def _object_of(schema: str) -> str:
    return json.dumps(dict.fromkeys(json.loads(schema).get("properties", {}), "press-4"))


def _calls_for(call: Generate, text: str) -> tuple[ToolCall, ...]:
    """The tools that the text names; the first one if one must be called."""
    if call.calls is None:
        return ()
    tools = [tool for tool in call.prompt.tools if tool.name in call.calls.names]
    named = [tool for tool in tools if tool.name in text] or ([] if call.calls.or_text else tools[:1])
    return tuple(ToolCall(tool.name, _object_of(tool.schema)) for tool in named[: call.calls.most])


def _labelled(call: Classify, text: str) -> tuple[float, ...]:
    """The label that the text has gets 0.9, else the first one."""
    learned = load_bundle(Path(call.head)).manifest.learned
    assert learned is not None
    chosen = next((i for i, label in enumerate(learned.labels) if label in text), 0)
    rest = 0.1 / (len(learned.labels) - 1)
    return tuple(0.9 if i == chosen else rest for i in range(len(learned.labels)))


def _pointed(call: Point) -> tuple[Pointed, ...]:
    """Each field gets its first class with 0.9, or the message's first word if it is a span."""
    learned = load_bundle(Path(call.head)).manifest.learned
    assert learned is not None
    places = ((0, len(call.text.split(" ")[0]), 1.0),) if call.text else ()
    found = []
    for field in learned.fields:
        rest = 0.1 / max(field.options - 1, 1)
        options = (0.9, *[rest] * (field.options - 1)) if field.options > 1 else (1.0,)
        found.append(Pointed(options, places if field.longest else ()))
    return tuple(found)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Worker(Pipe(int(sys.argv[1]), FROM_ENGINE, TO_ENGINE)).serve(Path(sys.argv[2]), Path(sys.argv[7]))
