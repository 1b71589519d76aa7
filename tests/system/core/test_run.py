"""``edgeslm run`` with the real models on a real broker: every kind of task, and what must not be seen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from edgeslm.cli.demo.material import NOTES_TAUGHT
from edgeslm.cli.demo.teaching import teach
from tests.support.apps import App, Heard
from tests.support.brokers import Mosquitto
from tests.support.missing import replace_package
from tests.support.nodes import BASE, NodeProcess, real_configuration

pytestmark = pytest.mark.e2e

MARKER = "quetzalcoatlus"
"""In every text that is sent; must not show up where it doesn't belong."""

REPLY = f"{BASE}/res/app"
CONTEXT = f"The {MARKER} press must be oiled every 40 hours with ISO VG 46 oil."
BAD_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": f"({MARKER}"}}}


@dataclass
class Hall:
    """A node at work: all tests of this file ask it, the last looks at what it said."""

    app: App
    process: NodeProcess

    def ask(self, task: str, input: Any, **options: Any) -> Heard:
        payload = {"input": input, "options": options} if options else {"input": input}
        return self.send(task, json.dumps(payload).encode())

    def send(self, task: str, payload: bytes, **how: Any) -> Heard:
        correlation = os.urandom(8)
        self.app.publish(f"{BASE}/req/{task}", payload, correlation=correlation, **{"reply_to": REPLY, **how})
        return self.app.take(
            f"{BASE}/res/#", lambda one: one.correlation == correlation and not one.topic.endswith("/stream")
        )


@contextlib.contextmanager
def _without_dnspython(folder: Path) -> Iterator[None]:
    """Children have no dnspython, as on a device: paho imports it where it is installed."""
    with pytest.MonkeyPatch.context() as patch:
        replace_package(patch, folder / "packages", "dns")
        yield


@pytest.fixture(scope="module")
def hall(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    folder = tmp_path_factory.mktemp("hall")
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    lesson = teach(
        folder,
        "urgency",
        {"normal": "", "warning": "", "critical": ""},
        NOTES_TAUGHT,
        starter / "minilm-l6-int8",
    )
    configuration = real_configuration(broker.url, starter, folder, log_level="info")
    configuration["tasks"]["urgency"] = {"learned": str(lesson.folder)}
    configuration["tasks"]["long"] = {**configuration["tasks"]["say"], "max_tokens": 4000}
    configuration["routes"] = [
        {
            "from": "plant/+/note",
            "task": "urgency",
            "input": "{{ payload.note }}",
            "to": "plant/{{ topic[1] }}/urgency",
        }
    ]
    try:
        with (
            App(broker.port, f"{BASE}/res/#", f"{BASE}/dead", f"{BASE}/state", "plant/+/urgency") as app,
            _without_dnspython(folder),
            NodeProcess(folder, configuration) as process,
        ):
            process.wait_online(app)
            yield Hall(app, process)
            assert process.terminate() == 0
    finally:
        broker.stop()


def result_of(heard: Heard, model: str = "small") -> Mapping[str, Any]:
    """The body of a result that went well."""
    result = heard.json
    assert result["status"] == "ok", result
    assert result["model"].startswith(f"{model}@sha256:")
    assert result["timings_ms"]["total"] >= result["timings_ms"]["prefill"] > 0
    assert result["usage"]["prompt_tokens"] > 0
    body = result["result"]
    assert isinstance(body, dict)
    return body


def test_classify_scores_the_labels(hall: Hall) -> None:
    body = result_of(hall.ask("triage", f"{MARKER} smells of burnt oil"))
    assert set(body["scores"]) == {"normal", "critical"}
    assert sum(body["scores"].values()) == pytest.approx(1, abs=1e-4)
    assert body["confidence"] == body["scores"][body["label"]] == max(body["scores"].values())


def test_classify_with_a_learned_head(hall: Hall) -> None:
    body = result_of(hall.ask("urgency", f"thick smoke from the {MARKER} cabinet"), "encoder")
    assert (body["label"], body["stage"]) == ("critical", "learned")
    assert set(body["scores"]) == {"normal", "warning", "critical"}


def test_a_route_reads_sensor_json(hall: Hall) -> None:
    hall.app.publish("plant/press-4/note", {"note": f"smoke from the {MARKER} cabinet", "oil_c": 91.4})
    assert hall.app.take("plant/press-4/urgency").json["result"]["label"] == "critical"


def test_extract_returns_json_that_fits_the_schema_in_words_of_the_message(hall: Hall) -> None:
    message = f"The {MARKER} press 4 is too hot."
    fields = result_of(hall.ask("fields", message))["fields"]
    assert set(fields) == {"machine"}
    assert fields["machine"] in message


def test_answer_quotes_the_context(hall: Hall) -> None:
    body = result_of(hall.ask("manual", "How often must the press be oiled?", context=CONTEXT))
    (citation,) = body["citations"]
    assert CONTEXT[citation["start"] : citation["end"]] == citation["quote"] == body["text"]


def test_summarize_and_generate_stay_within_their_tokens(hall: Hall) -> None:
    for task in ("brief", "say"):
        heard = hall.ask(task, f"{MARKER} " * 20)
        assert isinstance(result_of(heard)["text"], str)
        assert 0 < heard.json["usage"]["completion_tokens"] <= 8
    chat = {"messages": [{"role": "user", "content": f"Say {MARKER}."}]}
    assert result_of(hall.ask("say", chat, max_tokens=2))["finish_reason"] in ("stop", "length")


def test_a_streamed_answer_is_the_sum_of_its_chunks(hall: Hall) -> None:
    heard = hall.ask("say", f"Say {MARKER}.", stream=True)
    text = result_of(heard)["text"]
    said = ""
    while said != text:
        chunk = hall.app.take(f"{REPLY}/stream", lambda one: one.correlation == heard.correlation).json
        assert chunk["id"] == heard.json["id"]
        said += chunk["text"]
    assert hall.app.untaken(f"{REPLY}/stream") == []


def test_embed_gives_a_vector_of_length_1(hall: Hall) -> None:
    vector = result_of(hall.ask("vector", MARKER), "encoder")["vector"]
    assert len(vector) == 384
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("task", "payload", "code"),
    [
        ("triage", b"{ " + MARKER.encode(), "invalid_request"),
        ("triage", MARKER.encode() + b"\xff", "invalid_request"),
        ("triage", b" ", "invalid_request"),
        ("triage", MARKER.encode() * 800_000, "too_large"),
        ("triage", MARKER.encode() * 20_000, "too_long"),
        ("vector", (MARKER.encode() + b" ") * 2000, "too_long"),
        (MARKER, b"x", "unknown_task"),
        ("say", json.dumps({"input": "x", "options": {MARKER: 1}}).encode(), "invalid_request"),
        ("triage", json.dumps({"input": MARKER, "options": {"stop": MARKER}}).encode(), "invalid_request"),
        ("say", json.dumps({"input": MARKER, "options": {"max_tokens": 60_000}}).encode(), "too_long"),
        (
            "fields",
            json.dumps({"input": MARKER, "options": {"schema": BAD_SCHEMA}}).encode(),
            "invalid_request",
        ),
        (
            "fields",
            json.dumps({"input": MARKER, "options": {"schema": {"type": MARKER}}}).encode(),
            "invalid_request",
        ),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_requests_get_their_code_from_the_real_engine_too(
    hall: Hall, task: str, payload: bytes, code: str
) -> None:
    heard = hall.send(task, payload)
    assert heard.code == code, heard.json["error"]
    assert len(heard.json["error"]["message"]) > 10
    assert result_of(hall.ask("triage", "fine"))["label"]


def test_what_waits_too_long_expires_and_what_runs_is_cancelled(hall: Hall) -> None:
    hall.app.publish(f"{BASE}/req/long", MARKER, reply_to=REPLY, correlation=b"long")
    assert hall.ask("triage", MARKER, deadline_ms=100).code == "expired"
    hall.app.publish(f"{BASE}/cancel", b"", correlation=b"long")
    assert hall.app.take(REPLY, lambda one: one.correlation == b"long").code == "cancelled"


def test_a_worker_that_is_killed_twice_makes_its_request_poisoned(hall: Hall) -> None:
    hall.app.publish(
        f"{BASE}/req/long",
        {"input": MARKER, "options": {"stream": True}},
        reply_to=f"{REPLY}/poison",
        correlation=b"poison",
    )
    killed: set[int] = set()
    for _ in range(2):
        hall.app.wait_until(lambda: bool(decoders(hall.process) - killed), "an engine is there")
        hall.send("triage", b" ")  # answered at once, so what an engine before this one said has arrived
        while hall.app.untaken(f"{REPLY}/poison/stream"):
            hall.app.take(f"{REPLY}/poison/stream")
        hall.app.take(f"{REPLY}/poison/stream")  # the request runs
        (pid,) = decoders(hall.process) - killed
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
    assert hall.app.take(f"{REPLY}/poison").code == "poisoned"
    dead = hall.app.take(f"{BASE}/dead")
    assert dead.json["reason"] == "poisoned" and MARKER.encode() not in dead.payload
    assert result_of(hall.ask("triage", "fine"))["label"]


def decoders(process: NodeProcess) -> set[int]:
    """Process ids of the engines of the decoder; after a crash the dead one may still be among them."""
    found = set()
    for pid in process.worker_pids:
        with contextlib.suppress(OSError):  # it has just ended
            if b"smollm2" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def test_texts_never_reach_the_log(hall: Hall) -> None:
    """After all of the above, at the default level."""
    words = hall.process.words
    assert "models loaded" in words
    assert MARKER not in words
    assert "Traceback" not in words


def test_the_parent_stays_small_and_never_loads_the_engine(hall: Hall) -> None:
    maps = Path(f"/proc/{hall.process.pid}/maps").read_text()
    assert "onnxruntime" not in maps
    status = Path(f"/proc/{hall.process.pid}/status").read_text()
    resident_kb = int(status.partition("VmRSS:")[2].split()[0])
    print(f"parent process: {resident_kb} kB")
    assert resident_kb * 1024 < 60_000_000, resident_kb


def test_tls_with_user_and_password_from_files(
    make_broker: Callable[..., Mosquitto], starter: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    ca_file, cert_file, key_file = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(str(ca_file))
    certificate.cert_chain_pems[0].write_to_path(str(cert_file))
    certificate.private_key_pem.write_to_path(str(key_file))
    users, password_file = tmp_path / "users", tmp_path / "password"
    password_file.write_text("correct horse\n")
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(users), "hall", "correct horse"], check=True, capture_output=True
    )
    broker = make_broker(
        f"certfile {cert_file}\nkeyfile {key_file}\npassword_file {users}\n", anonymous=False
    )
    url = f"mqtts://localhost:{broker.port}"
    login = {"username": "hall", "password_file": str(password_file), "ca_file": str(ca_file)}
    configuration = real_configuration(url, starter, tmp_path, broker={"url": url, **login})
    del configuration["models"]["encoder"], configuration["tasks"]["vector"]
    app = App(broker.port, f"{BASE}/#", username="hall", password="correct horse", ca_file=ca_file)
    with app, NodeProcess(tmp_path, configuration) as node:
        node.wait_online(app)
        command = [sys.executable, "-m", "edgeslm", "request", "triage", "smoke", "--broker", url]
        options = {
            "--node": "hall",
            "--username": "hall",
            "--password-file": password_file,
            "--ca-file": ca_file,
        }
        done = subprocess.run(
            [*command, *(str(part) for option in options.items() for part in option)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["result"]["label"] in ("normal", "critical")
        assert node.terminate() == 0
        assert "correct horse" not in node.words + app.take(f"{BASE}/info").payload.decode()
