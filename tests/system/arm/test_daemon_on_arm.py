"""The daemon on ARM: its process and its engine's are emulated, broker and app are of this machine.

What a model says differs from CPU to CPU and nothing here is timed; what must hold is asked.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.apps import App
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, TASKS, NodeProcess
from tests.support.paths import ROOT

USERLAND = Path(os.environ["EDGESLM_ARM"])
CPUS = {"cortex-a72": False, "cortex-a76": True}
"""What qemu can be, and whether it has dot products of int8: a Raspberry Pi 4's, a Pi 5's."""
PLACES = f"{ROOT}/tests/system/arm/hook:{ROOT}:{USERLAND}/site"
"""Where the emulated Python finds modules."""


def write_python(folder: Path, cpu: str) -> Path:
    """A program that is Python on such a CPU, for whoever starts a child as ``sys.executable``."""
    root = USERLAND / "root"
    (python,) = (root / "usr/bin").glob("python3.[0-9][0-9]")
    program = folder / "python3"
    program.write_text(f'#!/bin/sh\nexec qemu-aarch64 -cpu {cpu} -L "{root}" "{python}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.mark.parametrize("cpu", CPUS)
def test_the_emulated_cpu_is_the_one_that_is_meant(cpu: str, tmp_path: Path) -> None:
    python = write_python(tmp_path, cpu)
    script = (
        "import platform, subprocess, sys\n"
        "ask = [sys.executable, '-c', 'import platform; print(platform.machine())']\n"
        "print(platform.machine(), subprocess.run(ask, capture_output=True, text=True).stdout.strip())\n"
        "print(*open('/proc/cpuinfo').read().split())\n"
    )
    environment = {**os.environ, "PYTHONPATH": PLACES, "EDGESLM_EMULATED_PYTHON": str(python)}
    done = subprocess.run([python, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    machines, _, words = done.stdout.partition("\n")
    assert machines == "aarch64 aarch64"
    assert ("asimddp" in words.split()) == CPUS[cpu]


@pytest.mark.parametrize("cpu", CPUS)
def test_a_request_is_answered_and_the_node_drains(
    cpu: str, starter: Path, tmp_path: Path, make_broker: Callable[..., Mosquitto]
) -> None:
    broker = make_broker()
    python = write_python(tmp_path, cpu)
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {
            "small": {"bundle": str(starter / "smollm2-135m-int4")},
            "encoder": {"bundle": str(starter / "minilm-l6-int8")},
        },
        "tasks": {
            "triage": {"kind": "classify", "model": "small", "labels": ["normal", "critical"]},
            "vector": TASKS["vector"],
        },
        "limits": {"request_timeout_s": 1200},
        "prepare": "never",
        "state_dir": str(tmp_path / "state"),
    }
    node = NodeProcess(
        tmp_path,
        configuration,
        python=[str(python)],
        PYTHONPATH=PLACES,
        EDGESLM_EMULATED_PYTHON=str(python),
    )
    with App(broker.port, f"{BASE}/#") as app, node:
        node.wait_online(app)
        request = {"id": "1", "input": "Burnt smell at spindle 3"}
        app.publish(f"{BASE}/req/vector", request)
        vector = app.take(f"{BASE}/res/vector").json
        assert vector["status"] == "ok", vector
        assert sum(value * value for value in vector["result"]["vector"]) == pytest.approx(1, abs=0.01)

        app.publish(f"{BASE}/req/triage", request)
        answer = app.take(f"{BASE}/res/triage").json
        assert answer["status"] == "ok", answer
        scores = answer["result"]["scores"]
        assert answer["result"]["label"] in scores and set(scores) == {"normal", "critical"}
        assert sum(scores.values()) == pytest.approx(1, abs=0.01)

        app.publish(f"{BASE}/req/triage", request)  # a repeat: the journal has it, no engine runs
        assert app.take(f"{BASE}/res/triage").json["result"] == answer["result"]

        assert node.terminate() == 0, node.words
        app.take_state(BASE, "stopped")
    assert "ERROR" not in node.words
