"""Worker process, one per loaded model. Calls arrive over a pipe (``edgeslm.engine.frames``); chunks and
outputs are sent back.

A separate process is needed because onnxruntime-genai holds the interpreter lock for a whole prefill
(measured: a timer with a 10 ms interval fired only once in 0.52 s). With a process for each model, a crash or
an out-of-memory kill ends one model, but not the broker connection. The worker exits when the pipe closes,
even in the middle of a call.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgeslm.bundle.manifest import load_bundle
from edgeslm.engine.calls import (
    ANY,
    BALANCED,
    NO_ADAPTERS,
    Adapters,
    Call,
    Device,
    EngineInfo,
    Generate,
    IsCancelled,
    OnText,
    Output,
    Power,
    Read,
    Score,
)
from edgeslm.engine.frames import FROM_ENGINE, TO_ENGINE, Chunk, Done, EngineMessage, Failed, Ready, Start
from edgeslm.engine.worker.prepared import find_prepared
from edgeslm.engine.worker.room import limit_memory
from edgeslm.errors import BundleError, Cancelled, InternalError, RequestError
from edgeslm.hardware.board import usable_cores
from edgeslm.ipc.codec import FrameError
from edgeslm.ipc.pipe import Pipe, Refused
from edgeslm.telemetry.log_lines import set_up_logging

if TYPE_CHECKING:
    from edgeslm.engine.worker.decoder import Decoder
    from edgeslm.engine.worker.encoder import Encoder

log = logging.getLogger("edgeslm.engine")


class _Inbox:
    """Queue of calls and set of cancelled calls, filled by a thread that reads the pipe."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._waiting: deque[Start] = deque()
        self._arrival = threading.Condition()
        self._running: list[int] = []
        self._cancelled: set[int] = set()

    def start(self) -> None:
        threading.Thread(target=self._read, name="pipe", daemon=True).start()

    def get(self) -> Start:
        """Waits for the next call and marks it as running."""
        with self._arrival:
            self._arrival.wait_for(lambda: self._waiting)
            return self._begin(self._waiting[0])

    def more_urgent(self, than: int) -> Start | None:
        """Takes a queued call with a priority above ``than``, if any."""
        with self._arrival:
            found = max(self._waiting, key=lambda entry: entry.priority, default=None)
            if found is None or found.priority <= than:
                return None
            return self._begin(found)

    def is_cancelled(self, number: int) -> bool:
        return number in self._cancelled

    def forget(self, number: int) -> None:
        """Removes a finished call, and cancellations that arrived after their calls had finished."""
        with self._arrival:
            self._running.remove(number)
            live = {*self._running, *(entry.number for entry in self._waiting)}
            self._cancelled -= {late for late in self._cancelled if late <= number and late not in live}

    def _begin(self, entry: Start) -> Start:
        self._waiting.remove(entry)
        self._running.append(entry.number)
        return entry

    def _read(self) -> None:
        try:
            while True:
                order = self._pipe.receive()
                with self._arrival:
                    if isinstance(order, Start):
                        self._waiting.append(order)
                        self._arrival.notify()
                    else:
                        self._cancelled.add(order.number)
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone or has stopped us
        except FrameError as error:
            log.error("the node sent a malformed message: %s", error)
            os._exit(1)


class Engine:
    """One loaded model, which is a decoder or an encoder.

    :param threads: number of CPU threads; 0 chooses the fastest number.
    :param digest: required digest of the bundle; None accepts any bundle.
    :param cache: folder of prepacked bundles.
    :raises BundleError: the bundle can't be loaded, or its model can't run on this device.
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        digest: str | None = None,
        adapters: Adapters = NO_ADAPTERS,
        cache: Path | None = None,
        *,
        power: Power = BALANCED,
        device: Device = "cpu",
    ) -> None:
        # Resolve a link once, so that all readers below see the same bundle even if it is switched.
        path = path.resolve()
        bundle = load_bundle(path, digest)
        kind = bundle.manifest.model_kind
        self._decoder: Decoder | None = None
        self._encoder: Encoder | None = None
        if kind == "decoder":
            graph = bundle.manifest.graphs.for_calls(adapters=bool(adapters)) or ""
            cache = cache if device == "cpu" else None  # prepacking is for the CPU
            with ThreadPoolExecutor(1) as pool:  # hash hundreds of MB while libraries are imported
                finding = pool.submit(find_prepared, bundle, graph, cache) if cache is not None else None
                from edgeslm.engine.worker.decoder import Decoder
                from edgeslm.engine.worker.loading import Loader

            prepared = None if finding is None else finding.result()
            self._decoder = Decoder(
                path,
                threads,
                adapters,
                digest=bundle.digest,
                prepared=prepared,
                loader=Loader(power, device),
            )
            self.context_length = self._decoder.context_length
            self.threads, self.prepared = self._decoder.threads, self._decoder.prepared
        elif kind == "encoder":
            if device != "cpu":
                raise BundleError(f"{path}: an encoder runs on the CPU alone: leave out device: {device}")
            from edgeslm.engine.worker.encoder import Encoder

            self.threads, self.prepared = threads or usable_cores(), False
            self._encoder = Encoder(path, self.threads, digest=bundle.digest, power=power)
            self.context_length = self._encoder.context_length
        else:
            raise BundleError(f"{path}: a bundle of kind {bundle.manifest.kind} can't be a model of its own")
        self.kind, self._manifest, self._device = kind, bundle.manifest, device

    def limit_memory(self) -> None:
        """Limits this process to the memory that calls of its decoder may need. On a GPU the memory isn't
        limited, since it is unknown how much memory the GPU driver takes."""
        if self._decoder is not None and self._device == "cpu":
            cache_bytes = self.context_length * self._manifest.kv_bytes_per_token
            limit_memory(cache_bytes, sum(file.bytes for file in self._manifest.weights))

    def run(self, call: Call, emit: OnText, cancelled: IsCancelled) -> Output:
        """Runs a call on the loaded model.

        :param cancelled: function polled between two steps; it may run another call before it returns.
        :raises RequestError: the error to report to the client.
        """
        if isinstance(call, (Generate, Score)):
            if self._decoder is None:
                raise InternalError("this model is an encoder and can't generate or score")
            if isinstance(call, Generate):
                return self._decoder.generate(call, emit, cancelled)
            return self._decoder.score(call, cancelled)
        if self._decoder is not None and isinstance(call, Read):
            from edgeslm.engine.worker.yes_no import read

            return read(self._decoder, call, cancelled)
        if self._encoder is None:
            raise InternalError("this model is a decoder and can't embed")
        started = time.perf_counter()
        output = self._encoder.run(call, cancelled)
        cost = output.cost
        elapsed = (time.perf_counter() - started) * 1000
        return replace(output, cost=replace(cost, prefill_ms=elapsed))

    def close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()


def serve(pipe: Pipe, arguments: Sequence[str]) -> None:
    """Loads the bundle, reports it ready, and answers calls until the pipe closes.

    :param arguments: arguments of the command line (:func:`main`).
    """
    inbox = _Inbox(pipe)
    inbox.start()
    started = time.perf_counter()
    try:
        engine = _load(arguments)
    except BundleError as error:
        pipe.send(Refused(str(error)))
        return
    engine.limit_memory()
    load_ms = (time.perf_counter() - started) * 1000
    try:
        told = EngineInfo(engine.kind, engine.context_length, engine.threads, load_ms, engine.prepared)
        pipe.send(Ready(told))
        while True:
            _answer(engine, inbox, pipe, inbox.get())
    except ConnectionError:
        os._exit(0)  # the parent closed the pipe before the reader thread noticed


def _load(arguments: Sequence[str]) -> Engine:
    _, bundle, threads, _, power, device = arguments[:6]
    cache, digest, *rest = [None if part == ANY else part for part in arguments[6:]]
    return Engine(
        Path(bundle),
        int(threads),
        digest,
        {Path(str(path)): expected for path, expected in zip(rest[::2], rest[1::2], strict=True)},
        None if cache is None else Path(cache),
        power=cast(Power, power),
        device=cast(Device, device),
    )


def _answer(engine: Engine, inbox: _Inbox, pipe: Pipe, entry: Start) -> None:
    """Runs a call and sends its result; calls of higher priority run between two of its steps."""

    def is_cancelled() -> bool:
        while (urgent := inbox.more_urgent(entry.priority)) is not None:
            _answer(engine, inbox, pipe, urgent)
        return inbox.is_cancelled(entry.number)

    outcome = _outcome(engine, pipe, entry, is_cancelled)
    try:
        pipe.send(outcome)
    except FrameError as error:  # not finite, or too large
        log.error("call %d of kind %s: %s", entry.number, type(entry.call).__name__, error)
        pipe.send(Failed(entry.number, "internal", "the engine's answer can't be sent"))
    inbox.forget(entry.number)


def _outcome(engine: Engine, pipe: Pipe, entry: Start, is_cancelled: IsCancelled) -> EngineMessage:
    number, call = entry.number, entry.call
    try:
        if is_cancelled():
            raise Cancelled("cancelled while it was waiting")
        output = engine.run(call, lambda text: pipe.send(Chunk(number, text)), is_cancelled)
    except ConnectionError:
        raise
    except RequestError as error:
        return Failed(number, error.code, str(error))
    except MemoryError:
        return Failed(number, "no_memory", "the engine ran out of memory on this request")
    except BundleError as error:
        return Failed(number, "model_unavailable", str(error))
    except Exception as error:
        # Only the type: the exception's text may quote the message, which must not be logged.
        log.error("call %d of kind %s failed: %s", number, type(call).__name__, type(error).__name__)
        log.debug("call %d", number, exc_info=True)
        return Failed(number, "internal", f"the engine failed on this request ({type(error).__name__})")
    return Done(number, output)


def main(argv: list[str]) -> None:
    """``python -m edgeslm.engine.worker.main FD BUNDLE THREADS LOG_LEVEL POWER DEVICE CACHE DIGEST [ADAPTER
    DIGEST]...``

    The worker is started by ``edgeslm.engine.host.process``. ``ANY`` as a DIGEST accepts any bundle; as CACHE
    it disables prepacked weights.
    """
    # Ctrl-C and systemd's SIGTERM reach the whole group; the parent drains first and then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    set_up_logging(argv[3])
    serve(Pipe(int(argv[0]), FROM_ENGINE, TO_ENGINE), argv)


if __name__ == "__main__":
    main(sys.argv[1:])
