"""``edgeslm run`` prepares the real small model by itself, serves meanwhile, then runs on what was made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeslm.engine.worker.prepared import CACHE, INDEX
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.engine.golden_bundles import with_golden
from tests.support.nodes import BASE, TASKS, NodeProcess, parent_of

pytestmark = pytest.mark.e2e

PREPARE = """
import functools, runpy, sys
from edgeslm.ipc import job
job.yield_processors = functools.partial(job.yield_processors, wholly=False)
runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
"""
"""The child's module, but not only while nobody else computes: beside other tests that may be never."""
HASTY = f"""
import functools, sys
from edgeslm.cli import main as cli
from edgeslm.node import daemon
from edgeslm.serving import prepare
hasty = daemon.Waits(quiet=prepare.QuietTimes(0.1, 0.1))
daemon.Daemon = functools.partial(daemon.Daemon, waits=hasty)
prepare.prepare = functools.partial(prepare.prepare, command=(sys.executable, "-P", "-c", {PREPARE!r}))
sys.exit(cli.main(["run", sys.argv[1]]))
"""
"""It takes every moment for a quiet one."""
LABELS = {"an oil leak": "", "an oil pump": "", "a broken tool": ""}


def test_a_node_prepares_its_model_and_serves_meanwhile(
    broker: Mosquitto, starter: Path, tmp_path: Path
) -> None:
    bundle = with_golden(starter / "smollm2-135m-int4", tmp_path / "small")
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {"small": {"bundle": str(bundle.path)}},
        "tasks": {"triage": {**TASKS["triage"], "labels": LABELS}},
        "state_dir": str(tmp_path / "state"),
    }
    info, asked = f"{BASE}/info", f"{BASE}/req/triage"
    cache = tmp_path / "state" / CACHE
    with (
        App(broker.port, info, f"{BASE}/state", f"{BASE}/res/#") as app,
        NodeProcess(tmp_path, configuration, script=HASTY) as node,
    ):
        node.wait_online(app)
        app.wait_until((cache / ".stage").exists, "it is being prepared")
        children = node.worker_pids
        assert len(children) == 2, "the engine, and what prepares"
        app.publish(asked, {"input": "Oil drips from press 4", "id": "meanwhile"})
        before = app.take(f"{BASE}/res/triage").json
        assert (before["id"], before["status"]) == ("meanwhile", "ok")
        assert node.terminate() == 0
        assert not any(parent_of(pid) for pid in children), "a stop ends both at once"
        assert list(cache.glob("*/prepared.json")) == []

        node.start()
        app.take(info, lambda heard: heard.json["models"]["small"]["prepared"] is True)
        app.publish(asked, {"input": "Oil drips from press 4", "id": "after"})
        after = app.take(f"{BASE}/res/triage", lambda heard: heard.json["id"] == "after").json
        assert after["status"] == "ok"
        assert after["result"]["scores"] == pytest.approx(before["result"]["scores"], abs=0.05)
        assert node.terminate() == 0

    (index,) = cache.glob(f"*/{INDEX}")
    assert len(json.loads(index.read_text())["divergences"]) == 2
    assert "2 of 2 answers as on the build machine" in node.words
    assert {entry.name for entry in cache.iterdir()} == {"lock", index.parent.name}


def test_sigterm_to_all_processes_while_preparing_is_a_clean_end(
    broker: Mosquitto, starter: Path, tmp_path: Path
) -> None:
    """As systemd sends it to a unit: to the node, its engine, and what prepares."""
    bundle = with_golden(starter / "smollm2-135m-int4", tmp_path / "small")
    configuration = {
        "node": "hall",
        "broker": {"url": broker.url},
        "models": {"small": {"bundle": str(bundle.path)}},
        "tasks": {"triage": {**TASKS["triage"], "labels": LABELS}},
        "state_dir": str(tmp_path / "state"),
    }
    cache = tmp_path / "state" / CACHE
    with (
        App(broker.port, f"{BASE}/state") as app,
        NodeProcess(tmp_path, configuration, script=HASTY) as node,
    ):
        node.wait_online(app)
        app.wait_until((cache / ".stage").exists, "it is being prepared")
        children = node.worker_pids
        for pid in (*children, node.pid):
            os.kill(pid, signal.SIGTERM)
        assert node.wait() == 0
        assert not any(parent_of(pid) for pid in children)
    assert " ERROR " not in node.words and " WARNING " not in node.words
    assert "Traceback" not in node.words
    assert list(cache.glob(f"*/{INDEX}")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_that_prepares_ends_with_its_child(starter: Path, tmp_path: Path, number: int) -> None:
    bundle = with_golden(starter / "smollm2-135m-int4", tmp_path / "small")
    (tmp_path / "edgeslm").mkdir()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "edgeslm", "prepare", str(bundle.path)]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        give_up_at = time.monotonic() + WAIT_S
        while not list(tmp_path.rglob(".stage")):
            assert process.poll() is None and time.monotonic() < give_up_at
            time.sleep(0.02)
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
        (child,) = (pid for pid in pids if parent_of(pid) == process.pid)
        for pid in (child, process.pid):
            os.kill(pid, number)
        assert process.wait(WAIT_S) == 128 + number
        while Path(f"/proc/{child}").exists():
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        assert process.stderr is not None and process.stderr.read() == ""
