"""Requests to a running daemon: a real broker, a fake engine, apps that speak MQTT 5 and 3.1.1."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import App, Heard
from tests.support.brokers import Mosquitto
from tests.support.nodes import BASE, Node, fake_configuration

REPLY = f"{BASE}/res/app"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def node(bus: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for all tests that don't disturb it."""
    folder = tmp_path_factory.mktemp("node")
    configuration = fake_configuration(
        bus.url,
        folder,
        replies=["edgeslm/v1/+/res/#", "replies/#"],
        limits={"packet_bytes": 65_536, "queue": 8, "sender_queue": 8, "request_timeout_s": 60},
    )
    with App(bus.port, f"{BASE}/state") as app, Node(folder, configuration) as node:
        app.take_state(BASE, "online")
        yield node


@pytest.fixture
def app(bus: Mosquitto, node: Node) -> Iterator[App]:
    """Speaks MQTT 5 and hears every result of the node."""
    with App(bus.port, f"{BASE}/res/#", f"{BASE}/dead", "replies/#") as app:
        yield app


@pytest.fixture
def sensor(bus: Mosquitto, node: Node) -> Iterator[App]:
    """Speaks MQTT 3.1.1 and hears every result of the node."""
    with App(bus.port, f"{BASE}/res/#", "replies/#", version=4) as sensor:
        yield sensor


def ask(app: App, task: str, payload: Any, **how: Any) -> Heard:
    """A request with Response Topic and Correlation Data, and its result."""
    correlation = b"ask-%d" % next(_numbers)
    app.publish(f"{BASE}/req/{task}", payload, correlation=correlation, **{"reply_to": REPLY, **how})
    return app.take(
        "#", lambda heard: heard.correlation == correlation and not heard.topic.endswith("/stream")
    )


# What is retained


def test_info_and_health_are_retained_and_hold_no_secret_and_no_path(bus: Mosquitto, node: Node) -> None:
    with App(bus.port, f"{BASE}/info", f"{BASE}/health", f"{BASE}/state") as late:
        info, health = late.take(f"{BASE}/info"), late.take(f"{BASE}/health")
        assert late.take(f"{BASE}/state").retain
    assert info.retain and health.retain
    triage = info.json["tasks"]["triage"]
    assert (triage["kind"], triage["model"]) == ("classify", "small")
    assert triage["request"] == f"{BASE}/req/triage"
    assert triage["result_schema"]["properties"]["label"]["enum"] == ["normal", "critical"]
    assert set(info.json["tasks"]["fields"]["options"]) == {"schema", "max_tokens"}
    assert info.json["models"]["small"]["digest"].startswith("sha256:")
    assert info.json["limits"]["queue"] == 8
    assert info.json["boot_id"] == node.daemon.boot_id
    for name in ("queue", "in_flight", "tokens_per_s", "latency_ms", "memory_bytes", "temperature_c"):
        assert name in health.json
    assert (health.json["session_lost"], set(health.json["memory_bytes"])) == (
        0,
        {"daemon", "small", "encoder"},
    )
    for text in (info.payload.decode(), health.payload.decode()):
        assert str(bus.port) not in text.replace(str(health.json["memory_bytes"]), "")
        assert "/tmp" not in text and str(Path.home()) not in text


# MQTT 5 and 3.1.1


def test_mqtt_5_gets_its_correlation_data_back_on_its_response_topic(app: App) -> None:
    app.publish(f"{BASE}/req/triage", "a critical thing", reply_to="replies/mine", correlation=b"\xff\0")
    heard = app.take("replies/mine")
    assert (heard.correlation, heard.qos, heard.retain, heard.expiry_s) == (b"\xff\0", 1, False, None)
    result = heard.json
    assert (result["task"], result["status"], result["id"]) == ("triage", "ok", "ff00")
    assert result["result"] == {
        "label": "critical",
        "confidence": 0.9,
        "scores": {"normal": 0.1, "critical": 0.9},
        "stage": "small",
        "taught": False,
    }
    assert result["model"].startswith("small@sha256:")
    assert set(result["timings_ms"]) == {"queue", "prefill", "decode", "total"}
    assert result["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}


def test_mqtt_3_1_1_uses_the_json_fields(sensor: App) -> None:
    sensor.publish(f"{BASE}/req/triage", {"input": "fine", "id": "42", "reply_to": "replies/sensor/7"})
    assert sensor.take("replies/sensor/7").json["id"] == "42"


def test_without_a_reply_topic_the_result_goes_to_the_task_s_own(sensor: App) -> None:
    sensor.publish(f"{BASE}/req/triage", "plain text, no JSON")
    heard = sensor.take(f"{BASE}/res/triage")
    assert heard.json["status"] == "ok" and heard.json["id"]


def test_a_request_of_qos_0_is_answered_too(sensor: App) -> None:
    sensor.publish(f"{BASE}/req/triage", {"input": "fine", "id": "qos-0"}, qos=0)
    assert sensor.take(f"{BASE}/res/triage", lambda heard: heard.json["id"] == "qos-0").json["status"] == "ok"


def test_a_result_expires_with_its_request(app: App) -> None:
    assert 0 < (ask(app, "triage", "fine", expiry_s=90).expiry_s or 0) <= 90


def test_below_the_threshold_a_task_abstains(app: App) -> None:
    result = ask(app, "strict", "fine").json
    assert (result["status"], result["result"]["label"]) == ("abstained", "normal")


@pytest.mark.parametrize(
    ("task", "payload", "body"),
    [
        ("fields", "press 4", {"fields": {"machine": "press-4"}, "spans": {}, "stage": "small"}),
        ("brief", "a long story", {"text": "a long story", "sources": ["input"], "extractive": False}),
        (
            "say",
            {"input": {"messages": [{"role": "user", "content": "hi"}]}},
            {"text": "hi", "finish_reason": "stop"},
        ),
        ("vector", "hello", {"vector": [0.6, 0.8]}),
    ],
)
def test_each_kind_of_task_answers(app: App, task: str, payload: Any, body: dict[str, Any]) -> None:
    result = ask(app, task, payload).json
    assert (result["status"], result["result"]) == ("ok", body)


def test_an_answer_quotes_its_context(app: App) -> None:
    result = ask(app, "manual", {"input": "40 hours", "options": {"context": "Oil it every 40 hours."}}).json
    assert result["result"]["citations"] == [
        {"source": "context", "quote": "40 hours", "start": 13, "end": 21}
    ]


def test_a_streamed_answer_comes_in_chunks_and_whole(app: App) -> None:
    heard = ask(app, "say", {"input": "one two three", "options": {"stream": True}})
    chunks = [app.take(f"{REPLY}/stream") for _ in range(3)]
    assert [chunk.json["seq"] for chunk in chunks] == [0, 1, 2]
    assert [chunk.json["text"] for chunk in chunks] == ["one", " two", " three"]
    assert {chunk.json["id"] for chunk in chunks} == {heard.json["id"]}
    assert {(chunk.qos, chunk.correlation) for chunk in chunks} == {(0, heard.correlation)}
    assert heard.json["result"]["text"] == "one two three"


def test_a_streamed_answer_says_nothing_twice_after_a_crash_of_the_engine(app: App, tmp_path: Path) -> None:
    text = f"crash-once {tmp_path / 'crashed'}"
    heard = ask(app, "say", {"input": text, "options": {"stream": True}})
    chunks = [app.take(f"{REPLY}/stream").json for _ in range(2)]
    assert "".join(chunk["text"] for chunk in chunks) == heard.json["result"]["text"] == text
    assert [chunk["seq"] for chunk in chunks] == [0, 1]
    assert app.untaken(f"{REPLY}/stream") == []


def test_a_node_tells_a_client_that_asks_for_chunks_of_a_task_that_has_none(app: App) -> None:
    assert ask(app, "triage", {"input": "x", "options": {"stream": True}}).code == "invalid_request"


# Bad requests


@pytest.mark.parametrize(
    ("task", "payload", "code", "says"),
    [
        ("triage", "{", "invalid_request", "begins with {"),
        ("triage", '  {"input": "x"', "invalid_request", "begins with {"),
        ("triage", '{"text": "x"}', "invalid_request", "no field 'text'"),
        ("triage", '{"id": "1"}', "invalid_request", "missing"),
        ("triage", '{"input": "x", "input": "y"}', "invalid_request", "twice"),
        ("triage", '{"input": NaN}', "invalid_request", "NaN"),
        ("triage", '{"input": ' + "[" * 60_000, "invalid_request", "nested"),
        ("triage", {"input": 5}, "invalid_request", "string"),
        ("triage", {"input": ["x"]}, "invalid_request", "string"),
        ("triage", {"input": {"messages": []}}, "invalid_request", "takes a text"),
        ("say", {"input": {"messages": [{"role": "robot", "content": "x"}]}}, "invalid_request", "role"),
        ("triage", {"input": "x", "id": 7}, "invalid_request", "id"),
        ("triage", {"input": "x", "id": "7" * 300}, "invalid_request", "256"),
        ("triage", {"input": "x", "options": []}, "invalid_request", "options"),
        ("triage", {"input": "x", "options": {"colour": "red"}}, "invalid_request", "no option 'colour'"),
        ("say", {"input": "x", "options": {"max_tokens": "many"}}, "invalid_request", "whole number"),
        ("say", {"input": "x", "options": {"temperature": 9}}, "invalid_request", "from 0 to 2"),
        ("triage", {"input": "x", "options": {"max_tokens": 5}}, "invalid_request", "max_tokens"),
        ("strict", {"input": "x", "options": {"priority": 5}}, "invalid_request", "it allows: none"),
        ("manual", "a question without a text", "invalid_request", "context"),
        ("triage", b"", "invalid_request", "empty"),
        ("triage", {"input": " \n"}, "invalid_request", "empty"),
        ("triage", b"caf\xe9", "invalid_request", "UTF-8 (byte 3"),
        ("nothing", "x", "unknown_task", "there are: brief, fields"),
        ("triage", "x" * 70_000, "too_large", "70000 bytes"),
        ("triage", "x" * 10_000_000, "too_large", "10000000 bytes"),
        ("triage", "fail too_long", "too_long", "told to"),
        ("triage", "fail no_memory", "no_memory", "told to"),
        ("triage", "fail model_unavailable", "model_unavailable", "told to"),
        ("triage", "fail internal", "internal", "told to"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_request_gets_its_code_and_a_sentence(
    app: App, task: str, payload: Any, code: str, says: str
) -> None:
    heard = ask(app, task, payload)
    result = heard.json
    assert heard.topic == REPLY
    assert (result["status"], heard.code) == ("error", code)
    assert says in result["error"]["message"], result["error"]["message"]
    assert "result" not in result and "Traceback" not in heard.payload.decode()
    assert ask(app, "triage", "critical, as before").json["result"]["label"] == "critical"


@pytest.mark.parametrize(
    ("reply_to", "says"),
    [
        ("replies/+/x", "wildcard"),
        ("replies/#", "wildcard"),
        ("factory/valve/set", "`replies`"),
        (f"{BASE}/req/triage", "use one below"),
        ("edgeslm/v1/other/cancel", "use one below"),
        ("$SYS/broker", "begins with $"),
        ("", "is empty"),
    ],
)
def test_a_reply_topic_that_may_not_be_used_is_answered_on_the_task_s_own(
    sensor: App, reply_to: str, says: str
) -> None:
    id_ = f"reply-{next(_numbers)}"
    sensor.publish(f"{BASE}/req/triage", {"input": "x", "id": id_, "reply_to": reply_to})
    heard = sensor.take(f"{BASE}/res/triage", lambda heard: heard.json["id"] == id_)
    assert heard.code == "invalid_request"
    assert says in heard.json["error"]["message"]


def test_a_response_topic_that_is_not_allowed_is_answered_on_the_task_s_own(app: App) -> None:
    heard = ask(app, "triage", "x", reply_to="factory/valve/set")
    assert (heard.topic, heard.code) == (f"{BASE}/res/triage", "invalid_request")


def test_bad_requests_of_mqtt_3_1_1_are_answered_on_the_task_s_own_topic(sensor: App) -> None:
    for payload, code in (
        (b"{", "invalid_request"),
        (b"\xff", "invalid_request"),
        (b"x" * 70_000, "too_large"),
    ):
        sensor.publish(f"{BASE}/req/triage", payload)
        assert sensor.take(f"{BASE}/res/triage").code == code


# Waiting: expiry, cancel, busy, time-out


@pytest.fixture
def gate(app: App, tmp_path: Path) -> Iterator[Path]:
    """Keeps the engine busy until the file is made; it is at the end."""
    file = tmp_path / "gate"
    app.publish(f"{BASE}/req/triage", f"hold {file}", reply_to=REPLY, correlation=b"gate")
    yield file
    file.touch()
    app.take(REPLY, lambda heard: heard.correlation == b"gate")


def test_a_request_that_expires_while_it_waits_is_not_started(app: App, gate: Path) -> None:
    crash = {"input": "crash", "options": {"deadline_ms": 50}}  # would show if it were started
    heard = ask(app, "triage", crash)
    assert heard.code == "expired"
    assert "it expired after waiting" in heard.json["error"]["message"]


def test_message_expiry_counts_while_a_request_waits(app: App, gate: Path) -> None:
    heard = ask(app, "triage", "crash", expiry_s=1)
    assert (heard.code, heard.expiry_s) == ("expired", 1)


def test_a_waiting_request_is_cancelled_by_its_correlation_data(app: App, gate: Path) -> None:
    app.publish(f"{BASE}/req/triage", "crash", reply_to=REPLY, correlation=b"unwanted")
    app.publish(f"{BASE}/cancel", b"", correlation=b"unwanted")
    heard = app.take(REPLY, lambda heard: heard.correlation == b"unwanted")
    assert (heard.code, heard.json["error"]["message"]) == ("cancelled", "cancelled while it was waiting")


def test_a_waiting_request_is_cancelled_by_its_id(app: App, sensor: App, gate: Path) -> None:
    sensor.publish(f"{BASE}/req/triage", {"input": "crash", "id": "unwanted", "reply_to": "replies/s"})
    sensor.publish(f"{BASE}/cancel", {"id": "unwanted"})
    assert sensor.take("replies/s").code == "cancelled"


@pytest.mark.parametrize("by_id", [True, False])
def test_a_running_request_is_cancelled(app: App, tmp_path: Path, by_id: bool) -> None:
    payload = {"input": f"hold {tmp_path / 'never'}", "id": "running"}
    app.publish(f"{BASE}/req/say", payload, reply_to=REPLY, correlation=b"running-now")
    if by_id:
        app.publish(f"{BASE}/cancel", {"id": "running"})
    else:
        app.publish(f"{BASE}/cancel", b"", correlation=b"running-now")
    heard = app.take(REPLY, lambda heard: heard.correlation == b"running-now")
    assert heard.code == "cancelled"
    assert ask(app, "say", "next").json["result"]["text"] == "next"


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"\xff", b'{"id": 5}', b'{"id": "nobody"}', b"[]", b'{"marker": 1, "marker": 2}']
)
def test_a_cancel_that_means_nothing_is_left_alone(
    app: App, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app.publish(f"{BASE}/cancel", payload)
    assert ask(app, "triage", "fine").json["status"] == "ok"
    assert "marker" not in caplog.text


def test_a_cancel_right_behind_its_request_finds_it(app: App, tmp_path: Path) -> None:
    """Both may wait for the loop together; the request has not begun by then."""
    for number in range(100):
        correlation = b"both-%d" % number
        text = f"hold {tmp_path / 'never'}"
        app.publish(f"{BASE}/req/triage", text, qos=0, reply_to=REPLY, correlation=correlation)
        app.publish(f"{BASE}/cancel", b"", qos=0, correlation=correlation)
        assert app.take(REPLY, lambda one: one.correlation == correlation).code == "cancelled"  # noqa: B023


def test_a_full_queue_is_busy_and_says_when_to_try_again(app: App, sensor: App, gate: Path) -> None:
    # The Receive Maximum keeps QoS 1 within the queue's size; QoS 0 it doesn't.
    for number in range(9):
        if number == 6:
            assert ask(app, "nothing", "x").code == "unknown_task"  # so the six before it wait by now
        payload = {"input": "x", "id": f"q{number}", "reply_to": "replies/q"}
        sensor.publish(f"{BASE}/req/triage", payload, qos=int(number < 6))
    heard = sensor.take("replies/q")
    assert (heard.json["id"], heard.code) == ("q8", "busy")
    assert heard.json["error"]["retry_after_ms"] > 0
    gate.touch()
    assert {sensor.take("replies/q").json["status"] for _ in range(8)} == {"ok"}


def test_a_higher_priority_goes_first(app: App, gate: Path) -> None:
    for name, priority in (("low", 1), ("high", 9), ("middle", 5)):
        payload = {"input": "x", "options": {"priority": priority}}
        app.publish(f"{BASE}/req/triage", payload, reply_to="replies/p", correlation=name.encode())
    gate.touch()
    assert [app.take("replies/p").correlation for _ in range(3)] == [b"high", b"middle", b"low"]


# The engine


def test_a_request_that_crashes_the_engine_once_is_tried_again(app: App, tmp_path: Path) -> None:
    assert ask(app, "triage", f"crash-once {tmp_path / 'crashed'}").json["status"] == "ok"


def test_a_request_that_crashes_the_engine_twice_is_poisoned_and_reported_dead(app: App) -> None:
    heard = ask(app, "triage", {"input": "crash", "id": "bad-7"})
    assert heard.code == "poisoned"
    dead = app.take(f"{BASE}/dead")
    assert dead.json.keys() == {"id", "task", "reply_to", "reason", "message"}
    assert (dead.json["id"], dead.json["reason"], dead.json["reply_to"]) == ("bad-7", "poisoned", REPLY)
    assert "input" not in dead.payload.decode()
    assert ask(app, "triage", "critical again").json["result"]["label"] == "critical"
