"""What Prometheus gets of a node that works. Real broker, fake engine."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from edgeslm import __version__
from tests.support.apps import App
from tests.support.brokers import Mosquitto, free_port
from tests.support.nodes import BASE, Node, NodeProcess, fake_configuration

MakeBroker = Callable[..., Mosquitto]


def scraped(port: int) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_and_health_say_the_same(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker, port = make_broker(), free_port()
    configuration = fake_configuration(broker.url, tmp_path, metrics={"listen": str(port)})
    with App(broker.port, f"{BASE}/#") as app, Node(tmp_path, configuration) as node:
        app.take_state(BASE, "online")
        for number in range(3):
            app.publish(f"{BASE}/req/triage", f"number {number}")
            assert app.take(f"{BASE}/res/triage").json["status"] == "ok"
        app.publish(f"{BASE}/req/Spindle-3", "what is this?")
        assert app.take(f"{BASE}/res/Spindle-3").code == "unknown_task"
        app.publish(f"{BASE}/req/say", "crash")
        assert app.take(f"{BASE}/res/say").code == "poisoned"
        found, health = scraped(port), node.daemon.health()
    assert found["edgeslm_results_total", "ok", "triage"] == health["tasks"]["triage"]["results"]["ok"] == 3
    assert found["edgeslm_results_total", "unknown_task", "other"] == 1
    assert found["edgeslm_result_duration_seconds_count", "triage"] == 3
    assert found["edgeslm_engine_restarts_total", "small"] == health["engine_restarts"]["small"] == 2
    assert found["edgeslm_state", "online"] == 1
    assert not [key for key in found if "Spindle" in "".join(key)]


def listening(pid: int) -> set[str]:
    """Inodes of the TCP sockets of a process that listen, with their addresses."""
    links = subprocess.run(["ls", "-l", f"/proc/{pid}/fd"], capture_output=True, text=True, check=True).stdout
    own = set(re.findall(r"socket:\[(\d+)\]", links))
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in own and (fields[3] == "0A" or table.startswith("udp")):
                found.add(f"{table} {fields[1]}")
    return found


def test_nothing_listens_unless_the_configuration_says_so(make_broker: MakeBroker, tmp_path: Path) -> None:
    broker, port = make_broker(), free_port()
    with App(broker.port, f"{BASE}/#") as app:
        with NodeProcess(tmp_path, fake_configuration(broker.url, tmp_path), fake=True) as process:
            process.wait_online(app)
            assert [listening(pid) for pid in (process.pid, *process.worker_pids)] == [set()] * 3
            assert process.terminate() == 0
        configuration = fake_configuration(broker.url, tmp_path, metrics={"listen": str(port)})
        with NodeProcess(tmp_path, configuration, fake=True) as process:
            process.wait_online(app)
            assert listening(process.pid) == {f"tcp 0100007F:{port:04X}"}, "on loopback alone"
            assert scraped(port)["edgeslm_build_info", __version__] == 1
            assert process.terminate() == 0
