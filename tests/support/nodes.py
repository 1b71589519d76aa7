"""Nodes for tests: the daemon in a thread of this process, or ``edgeslm run`` as a process of its own.

With ``fake`` its engines are :mod:`tests.support.fake_worker` processes, otherwise the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest import mock

import pytest
import yaml

import edgeslm
from edgeslm.bundle.manifest import Bundle
from edgeslm.config.loader import load_config
from edgeslm.engine.host.process import EngineProcess
from edgeslm.engine.worker.prepared import CACHE
from edgeslm.node.daemon import WAITS, Daemon, Waits, make_service
from edgeslm.protocol.delivery import Delivery
from edgeslm.telemetry.extension import Extension
from edgeslm.update.store import Store
from tests.support.apps import WAIT_S, App, Heard
from tests.support.paths import ROOT

BASE = "edgeslm/v1/hall"
FAKE_COMMAND = (sys.executable, str(ROOT / "tests/support/fake_worker.py"))


class FakeProcess(EngineProcess):
    """Its worker does what the input says (``tests/support/fake_worker.py``)."""

    command = FAKE_COMMAND


@pytest.fixture
def fake_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines of this process are fakes."""
    monkeypatch.setattr(EngineProcess, "command", FAKE_COMMAND)


FAKE_RUN = """
import sys
from edgeslm.cli import main as cli
from edgeslm.engine.host import team
from tests.support.nodes import FakeProcess
team.EngineProcess = FakeProcess
sys.exit(cli.main(["run", sys.argv[1]]))
"""


SECTIONS: dict[str, Any] = {
    "decoder": {"graphs": {"generate": "model.onnx"}},
    "encoder": {"encoder": {"dimension": 2}},
    "adapter": {"adapter": {"base": "sha256:0", "weights": "model.onnx", "rank": 4, "targets": ["q_proj"]}},
}
"""What a manifest of a kind must have beside the common fields."""


def write_bundle(
    folder: Path, kind: str = "decoder", *, weights: bytes | None = None, release: int | None = None
) -> Path:
    """A bundle that only a fake worker can load; its ``weights`` tell that what to do (``fake_worker``)."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = weights or b"weights of a fake " + kind.encode()
    (folder / "model.onnx").write_bytes(weights)
    manifest = {
        "format": 1,
        "name": f"fake-{kind}",
        "kind": kind,
        "architecture": "FakeForCausalLM",
        "source": {"id": "fake"},
        "files": [
            {"path": "model.onnx", "bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
        ],
        "context_length": 2048,
        "kv_bytes_per_token": 64,
        "created": "2026-01-01T00:00:00Z",
        **SECTIONS.get(kind, {}),
        **({} if release is None else {"release": release}),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_reader(folder: Path, head: bytes = b"layers of a fake reader") -> Path:
    """A bundle of the fake encoder that was taught to read; ``head`` is what stands on it."""
    write_bundle(folder, "encoder")
    (folder / "head.npz").write_bytes(head)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"path": "head.npz", "bytes": len(head), "sha256": hashlib.sha256(head).hexdigest()}
    changes = {
        "kind": "head",
        "head": {"reads": "pairs"},
        "graphs": {"encode": "model.onnx"},
        "files": [*manifest["files"], entry],
    }
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


def write_zero_shot(folder: Path, section: dict[str, Any]) -> Path:
    """A bundle of the fake encoder with the manifest's ``section`` of a zero-shot model."""
    layers = b"layers of a fake zero-shot model"
    write_bundle(folder, "encoder")
    (folder / "layers.npz").write_bytes(layers)
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = {"path": "layers.npz", "bytes": len(layers), "sha256": hashlib.sha256(layers).hexdigest()}
    changes = {"zero_shot": section, "files": [*manifest["files"], entry]}
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return folder


TASKS: dict[str, Any] = {
    "triage": {
        "kind": "classify",
        "model": "small",
        "labels": {"normal": "all is well", "critical": "stop now"},
    },
    "strict": {
        "kind": "classify",
        "model": "small",
        "labels": ["normal", "critical"],
        "threshold": 0.95,
        "allow": [],
    },
    "fields": {
        "kind": "extract",
        "model": "small",
        "schema": {"type": "object", "properties": {"machine": {"type": "string"}}, "required": ["machine"]},
        "allow": ["schema", "max_tokens"],
    },
    "manual": {"kind": "answer", "model": "small"},
    "brief": {"kind": "summarize", "model": "small"},
    "say": {"kind": "generate", "model": "small"},
    "vector": {"kind": "embed", "model": "encoder"},
}


def fake_configuration(url: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """All kinds of tasks on two fake bundles in ``folder``."""
    return {
        "node": "hall",
        "broker": {"url": url},
        "models": {
            "small": {"bundle": str(write_bundle(folder / "small"))},
            "encoder": {"bundle": str(write_bundle(folder / "encoder", "encoder"))},
        },
        "tasks": TASKS,
        "prepare": "never",
        "state_dir": str(folder / "state"),
        **changes,
    }


def real_configuration(url: str, starter: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """All kinds of tasks on the two models of the starter folder, with short outputs."""
    return {
        "node": "hall",
        "broker": {"url": url},
        "models": {
            "small": {"bundle": str(starter / "smollm2-135m-int4")},
            "encoder": {"bundle": str(starter / "minilm-l6-int8")},
        },
        "tasks": {
            "triage": TASKS["triage"],
            "fields": {**TASKS["fields"], "max_tokens": 32, "verbatim": True},
            "manual": {**TASKS["manual"], "max_tokens": 16},
            "brief": {**TASKS["brief"], "max_tokens": 8},
            "say": {**TASKS["say"], "max_tokens": 8},
            "vector": TASKS["vector"],
        },
        "prepare": "never",
        "state_dir": str(folder / "state"),
        **changes,
    }


def write_configuration(folder: Path, configuration: Mapping[str, Any]) -> Path:
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(dict(configuration), sort_keys=False))
    return file


async def passes(bundle: Bundle, **how: object) -> None:
    """The smoke test of a bundle that is sound."""


_Extension = TypeVar("_Extension", bound=Extension)


class Node:
    """A daemon with fake engines in a thread; leaving the ``with`` drains it and raises why it failed."""

    def __init__(
        self,
        folder: Path,
        configuration: Mapping[str, Any],
        *,
        smoke: Callable[..., Awaitable[object]] = passes,
        waits: Waits = WAITS,
    ) -> None:
        self._smoke = smoke
        self._waits = waits
        self.file = write_configuration(folder, configuration)
        config = load_config(self.file)
        service = make_service(
            Store(config.state_dir, config.node).settled(config),
            lambda bundle, hardware, adapters: FakeProcess(
                bundle.path, threads=hardware.threads, cache=config.state_dir / CACHE
            ),
        )
        self._started = threading.Event()
        self._config, self._service = config, service
        self._thread = threading.Thread(target=self._run, name="node")
        self._error: BaseException | None = None

    def __enter__(self) -> Node:
        self._thread.start()
        assert self._started.wait(WAIT_S)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def deliver(self, *deliveries: Delivery) -> None:
        """As if they had come from the broker, all in one turn of the loop."""

        def deliver() -> None:
            for delivery in deliveries:
                self.daemon.delivered(delivery)

        self._loop.call_soon_threadsafe(deliver)

    def extension(self, kind: type[_Extension]) -> _Extension:
        """That of the daemon."""
        return next(one for one in self.daemon.extensions if isinstance(one, kind))

    def run(self, call: Callable[..., object], *arguments: object) -> None:
        """Calls a function in the daemon's loop, and doesn't wait for it."""
        self._loop.call_soon_threadsafe(call, *arguments)

    def request_stop(self) -> None:
        self._loop.call_soon_threadsafe(self.daemon.request_stop)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.request_stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "the daemon doesn't end"
        if self._error is not None:
            raise self._error

    @property
    def worker_pids(self) -> dict[str, int]:
        return self._service.models.pids

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.daemon = Daemon(self._config, self._service, self.file, waits=self._waits)
        self._started.set()
        with mock.patch("edgeslm.update.checks.smoke_test", self._smoke):
            await self.daemon.run()


def packages() -> list[Path]:
    """The folders that this process has edgeslm and its libraries from, for a Python that finds neither."""
    return [Path(str(module.__file__)).parents[1] for module in (edgeslm, yaml)]


def launch(command: Sequence[str], words: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process whose words are added to the file ``words``."""
    with words.open("ab") as stream:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
        )


class NodeProcess:
    """``edgeslm run`` as a process, or a ``script`` that does it in its own way; its words are kept in
    ``folder``. Killed at the end if it still runs. ``python`` is another one than this, or emulated.
    ``launch`` is what starts it (:mod:`tests.support.sandboxed` has another)."""

    launch: ClassVar[Callable[..., Any]] = staticmethod(launch)

    def __init__(
        self,
        folder: Path,
        configuration: Mapping[str, Any],
        *,
        fake: bool = False,
        script: str = "",
        python: Sequence[str] = (sys.executable,),
        **environment: str,
    ) -> None:
        self.file = write_configuration(folder, configuration)
        self._words = folder / "words.txt"
        self._command = [*python, "-m", "edgeslm", "run", str(self.file)]
        if script := script or (FAKE_RUN if fake else ""):
            self._command = [*python, "-c", script, str(self.file)]
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> NodeProcess:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._process.poll() is None:
            self.kill()

    def start(self) -> None:
        self._process = self.launch(self._command, self._words, self._environment)

    def wait_online(self, app: App, base: str = BASE) -> Heard:
        """The state that says so; ``app`` must listen to it. Fails with the node's words if it ends first."""

        def is_online() -> bool:
            assert self._process.poll() is None, self.words
            return any(heard.json["state"] == "online" for heard in app.untaken(f"{base}/state"))

        app.wait_until(is_online, "the node is online")
        return app.take_state(base, "online")

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def words(self) -> str:
        """Everything it wrote to standard output and error, all its starts together."""
        return self._words.read_text()

    @property
    def worker_pids(self) -> list[int]:
        processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        return [pid for pid in processes if parent_of(pid) == self.pid]

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def wait(self) -> int:
        return int(self._process.wait(WAIT_S))

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None


def parent_of(pid: int) -> int | None:
    """Process id of the parent; None when the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


@contextlib.contextmanager
def dug(folder: Path, levels: int = 1500) -> Iterator[None]:
    """With folders inside one another, more than functions may call one another."""
    with contextlib.chdir(folder):
        for _ in range(levels):
            os.mkdir("a")  # noqa: PTH102  the whole path is too long
            os.chdir("a")
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
