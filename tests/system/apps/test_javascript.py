"""The examples in JavaScript: in Node.js over TCP and over WebSockets, and the page in Chromium where it is.

``scripts/from-npm`` gets MQTT.js, and Node.js where there is none.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.integration.client.test_client import wait_for
from tests.support.apps import WAIT_S
from tests.support.brokers import Mosquitto
from tests.support.hall import EXAMPLES, Hall
from tests.support.paths import ROOT
from tests.support.small_nodes import SmallNode


@pytest.fixture(scope="session")
def mqtt_js() -> tuple[str, Path]:
    """A Node.js, and the ``node_modules`` with the MQTT.js that package.json names."""
    version = json.loads((EXAMPLES / "package.json").read_text("utf-8"))["dependencies"]["mqtt"]
    # Its own fallback for Node.js needs uv, which is beside this Python.
    uv = str(Path(sys.executable).with_name("uv"))
    environment = {**os.environ, "EDGESLM_PYTHON": sys.executable, "UV": uv}
    command = [str(ROOT / "scripts" / "from-npm"), "mqtt", f"mqtt@{version}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    node, folder = done.stdout.splitlines()
    return node, Path(folder) / "node_modules"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mqtt_js: tuple[str, Path]) -> Path:
    """The examples beside MQTT.js, as ``npm install`` would leave them, and ``node``."""
    folder = tmp_path_factory.mktemp("javascript")
    for file in EXAMPLES.glob("*.mjs"):
        shutil.copy(file, folder)
    (folder / "node").symlink_to(mqtt_js[0])
    (folder / "node_modules").symlink_to(mqtt_js[1])
    return folder


def run(program: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """JavaScript that may import what the folder has."""
    return subprocess.run(
        ["./node", "--input-type=module", "--eval", program],
        env={"PATH": os.environ["PATH"], **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )


def ask(hall: Hall, folder: Path, text: str, url: str | None = None) -> subprocess.CompletedProcess[str]:
    return hall.run([folder / "node", folder / "ask.mjs", text], url)


def test_ask_prints_the_label(hall: Hall, folder: Path) -> None:
    done = ask(hall, folder, "it is critical")
    assert (done.stdout, done.stderr, done.returncode) == ("critical\n", "", 0)
    over_websockets = ask(hall, folder, "as ever", f"ws://127.0.0.1:{hall.websocket_port}")
    assert (over_websockets.stdout, over_websockets.returncode) == ("normal\n", 0)


def test_ask_says_what_is_wrong(hall: Hall, folder: Path) -> None:
    done = ask(hall, folder, "fail too_long")
    assert (done.stdout, done.returncode) == ("", 1) and done.stderr.startswith("too_long: ")


def test_a_node_or_a_broker_that_isn_t_there(broker: Mosquitto, folder: Path) -> None:
    variables = {"NODE": "hal", "TIMEOUT_MS": "500"}
    for url in (broker.url, "mqtt://127.0.0.1:1"):
        done = run('await import("./ask.mjs")', folder, BROKER=url, **variables)
        assert done.returncode == 2 and "no result of hal within 500 ms" in done.stderr


def test_many_at_a_time_and_pieces(hall: Hall, folder: Path) -> None:
    program = """
        import {connect} from "./edgeslm.mjs";
        const node = connect(process.env.BROKER, "press-hall-4");
        const texts = Array.from({length: 20}, (_, number) => number % 2 ? "critical" : "well");
        const labels = await Promise.all(texts.map((text) => node.ask("triage", text)));
        console.log(labels.map(({result}) => result.label).join(" "));
        const pieces = [];
        const {result} = await node.ask("say", "one two three", {onText: (text) => pieces.push(text)});
        console.log(JSON.stringify([pieces, result.text]));
        await node.close();
    """
    done = run(program, folder, BROKER=hall.broker.url)
    labels, said = done.stdout.splitlines()
    assert labels == " ".join(["normal", "critical"] * 10)
    assert json.loads(said) == [["one", " two", " three"], "one two three"]


ASK = """
    import {connect} from "./edgeslm.mjs";
    const node = connect(process.env.BROKER, "hall");
    const pieces = [];
    try {
        const how = {timeout: Number(process.env.TIMEOUT ?? 60000), onText: (text) => pieces.push(text)};
        if (process.env.ABORT) how.signal = AbortSignal.timeout(Number(process.env.ABORT));
        const {status, result, error} = await node.ask(process.env.TASK, "one two three", how);
        console.log(JSON.stringify([status, result?.text ?? error.code, pieces]));
    } catch (error) {
        console.log(error.name);
    }
    await node.close();
"""
QUICK = "const FIRST_REPEAT_MS = 5000,"


@pytest.fixture
def quick(folder: Path, tmp_path: Path) -> Path:
    """The same, sending again sooner."""
    copy = shutil.copytree(folder, tmp_path / "quick", symlinks=True)
    script = (copy / "edgeslm.mjs").read_text("utf-8")
    assert script.count(QUICK) == 1
    (copy / "edgeslm.mjs").write_text(script.replace(QUICK, "const FIRST_REPEAT_MS = 300,"))
    return copy


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("second", ["ok", "one two three", ["one", "two", "three"]]),
        ("busy-once", ["ok", "one two three", []]),
        ("busy", ["error", "busy", []]),
    ],
)
def test_it_is_sent_again_until_there_is_a_result(
    broker: Mosquitto, quick: Path, task: str, said: list[object]
) -> None:
    with SmallNode(broker.url) as node:
        done = run(ASK, quick, BROKER=broker.url, TASK=task)
        assert json.loads(done.stdout) == said, done.stderr
        assert len({(one.correlation, one.payload) for one in node.deliveries}) == 1
        assert len(node.deliveries) == 1 if task == "busy" else len(node.deliveries) >= 2


@pytest.mark.parametrize(("how", "says"), [("TIMEOUT", "Error"), ("ABORT", "TimeoutError")])
def test_who_stops_waiting_has_it_cancelled(broker: Mosquitto, folder: Path, how: str, says: str) -> None:
    with SmallNode(broker.url) as node:
        done = run(ASK, folder, BROKER=broker.url, TASK="silent", **{how: "4000"})
        assert done.stdout == f"{says}\n"
        wait_for(lambda: node.told)
        assert node.told[0].topic == node.topics.cancel
        assert node.told[0].correlation == node.deliveries[0].correlation


def test_a_broker_that_is_killed_meanwhile(
    make_broker: Callable[..., Mosquitto], quick: Path, tmp_path: Path
) -> None:
    broker = make_broker(folder=tmp_path)
    with SmallNode(broker.url) as node:
        asking = subprocess.Popen(
            ["./node", "--input-type=module", "--eval", ASK],
            env={"PATH": os.environ["PATH"], "BROKER": broker.url, "TASK": "second"},
            cwd=quick,
            stdout=subprocess.PIPE,
            text=True,
        )
        node.wait_for_request()
        broker.kill()
        broker.start()
        said = asking.communicate(timeout=WAIT_S)[0]
        assert json.loads(said)[1] == "one two three"


def test_what_the_broker_refuses_is_an_error(make_broker: Callable[..., Mosquitto], folder: Path) -> None:
    broker = make_broker("max_packet_size 2000\n")
    done = run(
        """
        import {connect} from "./edgeslm.mjs";
        const node = connect(process.env.BROKER, "hall");
        await node.ask("echo", "x".repeat(3000)).catch((error) => console.log(error.message));
        await node.close();
        """,
        folder,
        BROKER=broker.url,
    )
    assert (done.stdout, done.stderr) == ("the broker takes 2000 bytes; send less text\n", "")


def test_the_page_in_a_browser(hall: Hall, folder: Path, tmp_path: Path) -> None:
    """Chromium opens the page, which is told to ask, and says what stands there then."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no Chromium here")
    site = tmp_path / "site"
    site.mkdir()
    for file in (EXAMPLES / "edgeslm.mjs", folder / "node_modules/mqtt/dist/mqtt.esm.js"):
        shutil.copy(file, site)
    (site / "index.html").write_text((EXAMPLES / "ask.html").read_text("utf-8") + USER)
    with Site(site) as served:
        page = (
            f"http://127.0.0.1:{served.port}/?node=press-hall-4&broker=ws://127.0.0.1:{hall.websocket_port}"
        )
        opened = subprocess.Popen(
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                f"--user-data-dir={tmp_path}/user",
                page,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        try:
            assert served.said.get(timeout=WAIT_S) == "critical (ok)"
            assert served.said.get(timeout=WAIT_S).startswith("too_long: ")
        finally:
            opened.terminate()
            opened.wait(WAIT_S)


USER = """<script type="module">
  for (const text of ["it is critical", "fail too_long"]) {
    const says = document.querySelector("[role=status]");
    document.querySelector("input").value = text;
    document.querySelector("button").click();
    while (["", "…"].includes(says.textContent)) await new Promise((next) => setTimeout(next, 20));
    await fetch("/said?" + encodeURIComponent(says.textContent));
  }
</script>"""
"""Does what somebody at the page would do, and tells the test what stands there then."""


class Site:
    """Serves a folder on loopback; ``said`` has what was asked of ``/said?``."""

    def __init__(self, folder: Path) -> None:
        said = self.said = queue.SimpleQueue[str]()

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/said?"):
                    said.put(unquote(self.path.removeprefix("/said?")))
                super().do_GET()

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
