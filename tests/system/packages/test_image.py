"""The built image of Home Assistant's add-on: starts it with a stand-in for Supervisor, a broker and a model.

``scripts/test-image`` builds it, and runs this in a network with the addresses of Home Assistant's
containers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto
from tests.support.supervisor import BROKER, running_supervisor

IMAGE = Path(os.environ.get("EDGESLM_TEST_IMAGE", "/nowhere"))
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
CORE, INGRESS, ADDON = "172.30.32.1", "172.30.32.2", "172.30.32.3"
"""Addresses of Home Assistant, of its ingress, and of the add-on."""
ENVIRONMENT = {
    "PATH": "/opt/edgeslm/bin:/usr/local/bin:/usr/bin:/bin",
    "STATE_DIRECTORY": "/var/lib/edgeslm",
    "SUPERVISOR_TOKEN": "token-of-the-add-on",
}


def call(*command: str) -> str:
    """What a command in the image prints."""
    done = subprocess.run([CHROOT, IMAGE, *command], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def status(source: str, port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    connection = HTTPConnection(ADDON, port, timeout=WAIT_S, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": f"{ADDON}:{port}", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Iterator[App]:
    """A client of the broker beside the running add-on."""
    folder = tmp_path_factory.mktemp("broker")
    (IMAGE / "data").mkdir()
    (IMAGE / "data/options.json").write_text('{"log_level": "info"}')
    for model in ("smollm2-135m-int4", "minilm-l6-int8"):
        shutil.copytree(starter / model, IMAGE / "config/bundles" / model)
    (IMAGE / "etc/hosts").write_text(f"127.0.0.1 localhost\n{ADDON} supervisor\n")
    broker = Mosquitto(folder)
    broker.start()
    with running_supervisor(ADDON, 80) as supervisor, App(broker.port, "edgeslm/v1/home/#") as app:
        reply = {"result": "ok", "data": BROKER | {"host": "127.0.0.1", "port": broker.port}}
        supervisor.replies = [(200, reply)]
        command = [CHROOT, str(IMAGE), "/opt/edgeslm/bin/python3", "-I", "/opt/edgeslm/addon/start.py"]
        with (folder / "addon.log").open("wb") as log:
            process = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            give_up_at = time.monotonic() + 2 * WAIT_S
            while b"models loaded" not in (said := (folder / "addon.log").read_bytes()):
                assert process.poll() is None and time.monotonic() < give_up_at, said.decode()
                time.sleep(0.1)
            assert supervisor.asked == [("/services/mqtt", "Bearer token-of-the-add-on")]
            yield app
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0, (folder / "addon.log").read_text()
        finally:
            process.kill()
            process.wait()
    broker.stop()


def test_the_image_has_licences_and_no_tools_of_its_build() -> None:
    assert call("edgeslm", "--version").startswith("edgeslm ")
    assert "onnxruntime" in call("cat", "/opt/edgeslm/share/doc/edgeslm/THIRD-PARTY.txt")
    assert not list((IMAGE / "opt/edgeslm/bin").glob("pip*")) and not (IMAGE / "source").exists()
    megabytes = int(call("du", "-sm", "/opt/edgeslm").split()[0])
    print(f"/opt/edgeslm: {megabytes} MB")
    assert megabytes < 500


def test_the_image_can_teach() -> None:
    call("/opt/edgeslm/bin/python3", "-I", "-c", "import edgeslm_export.train.logistic_head, sklearn")


def test_a_message_of_the_house_gets_its_label(app: App) -> None:
    app.subscribe("home/doorbell/topic")
    app.publish("home/doorbell/message", "Smoke was detected in the cellar")
    told = app.take("home/doorbell/topic").json
    assert told["status"] == "ok" and told["result"]["label"] in ("parcel", "visitor", "alarm")


def test_the_node_is_not_root_and_owns_its_files(app: App) -> None:
    (pid,) = [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and b"run\0/config/edgeslm.yaml" in (folder / "cmdline").read_bytes()
    ]
    assert Path(f"/proc/{pid}").stat().st_uid == 64990
    tokens = (IMAGE / "config/api-tokens").stat()
    assert (tokens.st_uid, tokens.st_mode & 0o777) == (64990, 0o600)


def test_only_ingress_reaches_the_console_and_only_containers_the_api(app: App) -> None:
    token = (IMAGE / "config/api-tokens").read_text().split()[1]
    key = {"Authorization": f"Bearer {token}"}
    assert status(INGRESS, 8480, "/")[0] == 200
    assert status(CORE, 8480, "/")[0] == 403
    assert status(CORE, 8481, "/v1/models")[0] == 401
    code, body = status(CORE, 8481, "/v1/models", key)
    assert code == 200 and [model["id"] for model in json.loads(body)["data"]][:1] == ["topic"]
