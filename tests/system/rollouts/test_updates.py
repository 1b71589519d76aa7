"""A node with the real models, whose decoder is to become bundles that are sound or bad, while it answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeslm.bundle.manifest import load_bundle
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, NodeProcess, real_configuration
from tests.support.operators import Operator, ask

pytestmark = pytest.mark.e2e
DECODER = "smollm2-135m-int4"
PAUSE_S = 0.2
"""Between requests, so that a small machine has time for the rest."""


def make(starter: Path, folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """A bundle like the starter's decoder, but for a change of its files or manifest; digests fit."""
    shutil.copytree(starter / DECODER, folder, copy_function=os.link)
    manifest = json.loads((folder / "manifest.json").read_text())
    change(folder, manifest)
    for entry in manifest["files"]:
        file = folder / entry["path"]
        if file.stat().st_nlink == 1:  # it was replaced
            content = file.read_bytes()
            entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    replace(folder / "manifest.json", json.dumps(manifest).encode())
    return folder


def replace(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def sound(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["name"] = "smollm2-v2"


def weights_of(manifest: dict[str, Any]) -> str:
    """The largest file."""
    return str(max(manifest["files"], key=lambda entry: entry["bytes"])["path"])


def other_weights(folder: Path, manifest: dict[str, Any]) -> None:
    file = folder / weights_of(manifest)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400_000] = os.urandom(400_000)
    replace(file, bytes(content))


def other_answers(folder: Path, manifest: dict[str, Any]) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    for answer in golden["answers"]:
        answer["log_probs"] = list(reversed(answer["log_probs"]))
    replace(folder / "golden.json", json.dumps(golden).encode())


def too_large(folder: Path, manifest: dict[str, Any]) -> None:
    manifest["kv_bytes_per_token"] = 1 << 30


def no_graph(folder: Path, manifest: dict[str, Any]) -> None:
    replace(folder / manifest["graphs"]["generate"], b"no graph")


def no_tokenizer(folder: Path, manifest: dict[str, Any]) -> None:
    replace(folder / "tokenizer.json", b"{}")


BAD: dict[str, tuple[Callable[[Path, dict[str, Any]], None], str]] = {
    "other weights": (other_weights, "golden answers differ"),
    "other answers": (other_answers, "golden answers differ"),
    "too large": (too_large, "too large for this device"),
    "no graph": (no_graph, "can't be loaded"),
    "no tokenizer": (no_tokenizer, "tokenizer.json"),
}


@pytest.fixture
def new(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


@pytest.fixture
def configuration(broker: Mosquitto, starter: Path, tmp_path: Path) -> dict[str, Any]:
    return real_configuration(
        broker.url,
        starter,
        tmp_path,
        control={"allow": ["models"]},
        updates={"sources": [str(tmp_path / "new")], "trial_s": 3600, "slowest": 5},
    )


@pytest.fixture
def app(broker: Mosquitto) -> Iterator[App]:
    with App(
        broker.port, f"{BASE}/state", f"{BASE}/health", f"{BASE}/ctl/models/+/res", f"{BASE}/res/#"
    ) as app:
        yield app


class Sender(threading.Thread):
    """Asks for a label again and again, until it is told to stop; keeps what came that was no answer."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._stop_asking = threading.Event()
        self.answers = 0
        self.wrong: list[dict[str, Any]] = []

    def run(self) -> None:
        with App(self._port, f"{BASE}/res/triage/sender") as app:
            while not self._stop_asking.wait(PAUSE_S):
                request = {"input": "Spindle 3 smells of burnt oil", "reply_to": f"{BASE}/res/triage/sender"}
                app.publish(f"{BASE}/req/triage", request)
                answer = app.take(f"{BASE}/res/triage/sender").json
                self.answers += 1
                if answer["status"] != "ok":
                    self.wrong.append(answer)

    def stop(self) -> None:
        self._stop_asking.set()
        self.join()


def test_sound_and_bad_models_while_requests_are_answered(
    broker: Mosquitto, configuration: dict[str, Any], starter: Path, new: Path, tmp_path: Path, app: App
) -> None:
    with NodeProcess(tmp_path, configuration) as node:
        node.wait_online(app)
        operator = Operator(app)
        before = ask(app, "triage", "All quiet", b"1")["model"]
        sender = Sender(broker.port)
        sender.start()
        for name, (change, words) in BAD.items():
            source = make(starter, new / name.replace(" ", "-"), change)
            staged = operator.give("models/stage", source=str(source))
            answer = operator.give("models/activate", model="small", digest=staged["result"]["digest"])
            assert words in answer["error"]["message"], name
        damaged = new / "damaged"
        shutil.copytree(starter / DECODER, damaged)
        with (damaged / weights_of(json.loads((damaged / "manifest.json").read_text()))).open("r+b") as file:
            file.seek(1000)
            file.write(b"\0" * 100)
        assert "SHA-256" in operator.give("models/stage", source=str(damaged))["error"]["message"]
        shutil.copytree(starter / "minilm-l6-int8", new / "encoder")
        staged = operator.give("models/stage", source=str(new / "encoder"))
        answer = operator.give("models/activate", model="small", digest=staged["result"]["digest"])
        assert "needs kind decoder" in answer["error"]["message"]
        assert ask(app, "triage", "All quiet", b"2")["model"] == before
        staged = operator.give("models/stage", source=str(make(starter, new / "v2", sound)))
        digest = staged["result"]["digest"]
        assert operator.give("models/activate", model="small", digest=digest)["result"]["state"] == "ON_TRIAL"
        assert ask(app, "triage", "All quiet", b"3")["model"] != before
        sender.stop()
        assert sender.wrong == []
        assert sender.answers > 5
        for _ in range(2):  # on trial, its engine ends by itself
            os.kill(engine_of(node, load_bundle(starter / DECODER).path), signal.SIGKILL)
            assert ask(app, "triage", "All quiet", os.urandom(4))["status"] == "ok"
        app.wait_until(
            lambda: any(
                heard.json["updates"].get("small", {}).get("state") == "FAILED"
                for heard in app.untaken(f"{BASE}/health")
            ),
            "it is taken back",
        )
        assert ask(app, "triage", "All quiet", b"4")["model"] == before


def engine_of(node: NodeProcess, not_of: Path) -> int:
    """The engine process of the decoder that came from the store."""
    for pid in node.worker_pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if any(b"/state/updates/" in word for word in words) and str(not_of).encode() not in words:
            return pid
    raise AssertionError("no engine of a staged bundle runs")
