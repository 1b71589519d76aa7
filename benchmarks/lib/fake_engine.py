"""``edgeslm run`` with fake engines, and such an engine: a settable service time, crashes on request.

    python benchmarks/lib/fake_engine.py run CONFIG            # the daemon, with this file as its engine
    python benchmarks/lib/fake_engine.py FD BUNDLE THREADS LOG_LEVEL

It scores the labels of ``classify`` and nothing else. ``FAKE_SERVICE_MS`` is the time of a call (default 0);
with ``FAKE_CRASH_EVERY`` every so many calls one ends the process by SIGKILL (default: none). If the weights
of a bundle begin with ``wrong``, it chooses another label; with ``crash after N``, it ends on its Nth call.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

from edgeslm.engine.calls import Cost, EngineInfo, Output, Score
from edgeslm.engine.frames import FROM_ENGINE, TO_ENGINE, Done, Failed, Ready, Start
from edgeslm.ipc.pipe import Pipe


def run(config: str) -> int:
    from edgeslm.cli import main
    from edgeslm.engine.host.process import EngineProcess

    EngineProcess.command = (sys.executable, str(Path(__file__).resolve()))
    return main.main(["run", config])


def serve(pipe: Pipe, weights: bytes) -> None:
    service_s = float(os.environ.get("FAKE_SERVICE_MS", "0")) / 1000
    crash_every = float(os.environ.get("FAKE_CRASH_EVERY", "inf"))
    chosen = int(weights.startswith(b"wrong"))
    found = re.match(rb"crash after (\d+)", weights)
    calls_left = int(found[1]) if found else None
    pipe.send(Ready(EngineInfo("decoder", 2048, 1, 0.0)))
    while True:
        order = pipe.receive()
        if not isinstance(order, Start):
            continue  # a cancel: what it means is over by now
        crashes = random.random() * crash_every < 1
        if calls_left is not None:
            calls_left -= 1
            crashes = crashes or calls_left <= 0
        time.sleep(service_s / 2 if crashes else service_s)
        if crashes:
            os.kill(os.getpid(), signal.SIGKILL)
        number, call = order.number, order.call
        if isinstance(call, Score):
            left = 0.1 / max(1, len(call.labels) - 1)
            probabilities = tuple(0.9 if index == chosen else left for index in range(len(call.labels)))
            cost = Cost(prefill_ms=service_s * 1000, prompt_tokens=7)
            pipe.send(Done(number, Output(cost, probabilities=probabilities)))
        else:
            pipe.send(Failed(number, "internal", "The fake engine only scores labels."))


def write_bundle(folder: Path, weights: bytes = b"weights of a fake") -> Path:
    """A bundle that only this engine can load."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(weights)
    digest = hashlib.sha256(weights).hexdigest()
    manifest = {
        "format": 1,
        "name": "fake-decoder",
        "kind": "decoder",
        "architecture": "FakeForCausalLM",
        "source": {"id": "fake"},
        "files": [{"path": "model.onnx", "bytes": len(weights), "sha256": digest}],
        "context_length": 2048,
        "kv_bytes_per_token": 64,
        "graphs": {"generate": "model.onnx"},
        "created": "2026-01-01T00:00:00Z",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


if __name__ == "__main__":
    if sys.argv[1] == "run":
        sys.exit(run(sys.argv[2]))
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # the parent decides
        signal.signal(signal_number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the daemon is gone
        pipe = Pipe(int(sys.argv[1]), FROM_ENGINE, TO_ENGINE)
        serve(pipe, (Path(sys.argv[2]) / "model.onnx").read_bytes())
