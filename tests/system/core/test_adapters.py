"""Tasks with adapters through ``edgeslm run``: a real broker, the real small model, random adapters."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeslm.bundle.manifest import load_bundle
from tests.support.adapters import make_adapter, make_base
from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, TASKS, NodeProcess

pytestmark = [pytest.mark.e2e, pytest.mark.export]


def test_requests_switch_between_adapters_on_one_model(starter: Path, tmp_path: Path) -> None:
    base = make_base(starter / "smollm2-135m-int4", tmp_path / "small")
    adapters = {f"task{seed}": make_adapter(tmp_path / f"a{seed}", base, seed) for seed in range(2)}
    broker = Mosquitto(tmp_path)
    broker.start()
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {"small": {"bundle": str(base)}},
        "tasks": {
            "plain": TASKS["triage"],
            "say": {**TASKS["say"], "max_tokens": 4, "adapter": str(adapters["task0"])},
            **{name: {**TASKS["triage"], "adapter": str(path)} for name, path in adapters.items()},
        },
        "state_dir": str(tmp_path / "state"),
    }
    with App(broker.port, f"{BASE}/#") as app, NodeProcess(tmp_path, configuration) as node:
        node.wait_online(app)

        def ask(task: str) -> dict[str, object]:
            correlation, payload = os.urandom(8), json.dumps({"input": "The belt is burning"}).encode()
            app.publish(f"{BASE}/req/{task}", payload, correlation=correlation, reply_to=f"{BASE}/res/app")
            heard = app.take(f"{BASE}/res/#", lambda one: one.correlation == correlation)
            assert heard.json["status"] == "ok", heard.json
            answer: dict[str, object] = heard.json
            return answer

        ask("say")
        digest = load_bundle(base).digest[:19]
        assert ask("plain")["model"] == f"small@{digest}"
        scores = {task: ask(task)["result"] for task in ("plain", *adapters)}
        assert len({json.dumps(result, sort_keys=True) for result in scores.values()}) == 3
        for task, path in adapters.items():
            assert ask(task)["model"] == f"small@{digest}+{load_bundle(path).digest[:19]}"
        assert len(node.worker_pids) == 1
        assert node.terminate() == 0
    broker.stop()


def test_a_damaged_adapter_keeps_the_node_from_starting(starter: Path, tmp_path: Path) -> None:
    base = make_base(starter / "smollm2-135m-int4", tmp_path / "small")
    adapter = make_adapter(tmp_path / "adapter", base, 1)
    file = adapter / "adapter.onnx_adapter"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    broker = Mosquitto(tmp_path)
    broker.start()
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {"small": {"bundle": str(base)}},
        "tasks": {"say": {**TASKS["say"], "adapter": str(adapter)}},
        "state_dir": str(tmp_path / "state"),
    }
    with NodeProcess(tmp_path, configuration) as node:
        assert node.wait() != 0
        assert "adapter.onnx_adapter: its SHA-256 differs" in node.words
    broker.stop()
