"""The text for Prometheus, read by its own parsers and held to the rules of its linter."""

from __future__ import annotations

import re
from typing import Any

import pytest
from prometheus_client import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edgeslm.errors import Busy, RequestError, UnknownTask
from edgeslm.messages import ErrorBody, Result
from edgeslm.telemetry.health import BUCKETS_S, Meter
from edgeslm.telemetry.metrics import METRICS, STATES, exposition
from tests.support.fakes import FakeService
from tests.support.paths import ROOT

DOCS = (ROOT / "docs/operations/monitoring.md").read_text("utf-8")
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def answered(task: str = "triage", total_ms: float = 20.0, status: Any = "ok") -> Result:
    timings = {"queue": 1.0, "prefill": total_ms - 1.0, "decode": 0.0, "total": total_ms}
    usage = {"prompt_tokens": 60, "completion_tokens": 2}
    return Result("1", task, status, {}, timings_ms=timings, usage=usage)


def refused(task: str, error: RequestError) -> Result:
    return Result("1", task, "error", error=ErrorBody.of(error), timings_ms={"total": 0.1})


def health(**changes: Any) -> dict[str, Any]:
    """As the daemon makes it, of a meter that has seen something."""
    meter = Meter(FakeService(triage=None, fields=None))
    for total_ms in (8.0, 20.0, 400.0, 200_000.0):
        meter.count(answered(total_ms=total_ms))
    meter.count(answered("fields", status="abstained"))
    meter.count(refused("triage", Busy("full", retry_after_ms=1)))
    meter.drop("rate")
    return {
        "state": "online",
        "queue": 2,
        "in_flight": 1,
        **meter.figures(),
        "broker_dropped": 3,
        "session_lost": 1,
        "engine_restarts": {"small": 2},
        "memory_bytes": {"daemon": 52_428_800, "small": 1},
        "temperature_c": 54.2,
        "drift": {"fields": {"moved": True, "messages": 200}},
        "alerts": ["Spindle 3 smells."],
        **changes,
    }


def families(document: dict[str, Any], accept: str = "") -> dict[str, Family]:
    body, content_type = exposition(document, accept)
    text = body.decode()
    if content_type.startswith("application/openmetrics-text"):
        return {family.name: family for family in openmetrics.text_string_to_metric_families(text)}
    assert content_type.startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(document: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families(document).values()
        for sample in family.samples
    }


def test_the_figures_are_those_of_health() -> None:
    found = values(health())
    assert found["edgeslm_results_total", "ok", "triage"] == 4
    assert found["edgeslm_results_total", "busy", "triage"] == 1
    assert found["edgeslm_results_total", "abstained", "fields"] == 1
    assert found["edgeslm_tokens_total", "prompt", "triage"] == 240
    assert found["edgeslm_tokens_total", "completion", "triage"] == 8
    assert found["edgeslm_queue_length",] == 2
    assert found["edgeslm_requests_in_flight",] == 1
    assert found["edgeslm_dropped_total", "rate"] == 1
    assert found["edgeslm_broker_dropped_total",] == 3
    assert found["edgeslm_sessions_lost_total",] == 1
    assert found["edgeslm_engine_restarts_total", "small"] == 2
    assert found["edgeslm_resident_memory_bytes", "daemon"] == 52_428_800
    assert found["edgeslm_temperature_celsius",] == 54.2
    assert found["edgeslm_drift_moved", "fields"] == 1
    assert found["edgeslm_alerts",] == 1
    assert [found["edgeslm_state", state] for state in STATES] == [0, 1, 0, 0]


def test_a_histogram_holds_every_answer_and_no_error() -> None:
    found = values(health())
    counts = [found["edgeslm_result_duration_seconds_bucket", str(float(b)), "triage"] for b in BUCKETS_S]
    assert counts[:2] == [1, 2]
    assert counts == sorted(counts)
    assert counts[-1] == 3, "one took longer than the last bound"
    assert found["edgeslm_result_duration_seconds_bucket", "+Inf", "triage"] == 4
    assert found["edgeslm_result_duration_seconds_count", "triage"] == 4
    assert found["edgeslm_result_duration_seconds_sum", "triage"] == pytest.approx(200.428)


def test_an_answer_on_a_bound_is_within_it() -> None:
    meter = Meter(FakeService(triage=None))
    meter.count(answered(total_ms=10.0))
    assert meter.figures()["tasks"]["triage"]["within_s"]["0.01"] == 1


def test_tasks_that_senders_make_up_are_one_series() -> None:
    meter = Meter(FakeService(triage=None))
    for number in range(1000):
        meter.count(refused(f"made-up-{number}", UnknownTask("there is none")))
    figures = meter.figures()
    assert list(figures["tasks"]) == ["other"]
    assert figures["tasks"]["other"]["results"] == {"unknown_task": 1000}
    assert "made-up" not in exposition(health(**figures))[0].decode()


def test_what_stands_in_alerts_is_counted_and_not_told() -> None:
    assert b"Spindle" not in exposition(health())[0]


@pytest.mark.parametrize("accept", ["", "*/*", OPENMETRICS, f"{OPENMETRICS},text/plain;q=0.5", "nonsense;;"])
def test_both_formats_parse_and_say_the_same(accept: str) -> None:
    expected = {m.name.removesuffix("_total") for m in METRICS}
    assert set(families(health(), accept)) == expected


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_node_that_has_just_started_has_figures(accept: str) -> None:
    young = health(**Meter().figures(), temperature_c=None, drift={}, engine_restarts={}, alerts=[])
    found = families(young, accept)
    assert "edgeslm_temperature_celsius" not in found, "no zone is no zero"
    assert found["edgeslm_alerts"].samples[0].value == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric.name))
def test_names_are_as_the_linter_of_prometheus_wants_them(metric: Any) -> None:
    """The rules of promlint (``promtool check metrics``), version 2.53."""
    assert metric.help
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search("[A-Z:]|^_|__", metric.name)
    assert not re.search("_(gauge|counter|histogram|summary)(_|$)", metric.name), "no type in the name"
    assert not re.search(
        "_(milliseconds|ms|minutes|kilobytes|megabytes|percent|fahrenheit)(_|$)", metric.name
    )
    assert not metric.name.endswith(("_count", "_sum", "_bucket"))
    assert not {"le", "quantile"} & set(metric.labels)
    assert all(re.fullmatch("[a-z_]+", label) for label in metric.labels)


def test_the_docs_list_every_metric() -> None:
    rows = re.findall(r"(?m)^\| `(edgeslm_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", DOCS)
    assert [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows
    ] == [(metric.name, metric.kind, metric.labels, metric.help) for metric in METRICS]


def test_the_questions_in_the_docs_ask_for_metrics_that_there_are() -> None:
    block = re.search(r"(?s)```promql\n(.*?)```", DOCS)
    assert block
    asked = {re.sub("_bucket$", "", name) for name in re.findall(r"\bedgeslm_\w+", block[1])}
    assert asked and asked <= {metric.name for metric in METRICS}
