"""Prometheus metrics: the figures of ``health`` in its words, by one table.

:data:`METRICS` lists all of them; :func:`exposition` writes the text for a scraper. Nothing is counted here,
so that Prometheus, ``health`` and whoever shows them can't differ. Labels are names of the configuration and
codes of the contract: no text, no topic, nothing that a sender chooses. Pure: knows no bus, no daemon and no
socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeslm import __version__

Health = Mapping[str, Any]
Samples = Iterator[tuple[tuple[str, ...], Any]]
"""Values of labels, and a number; of a histogram counts within bounds, and the sum."""

STATES = ("starting", "online", "draining", "stopped")


@dataclass(frozen=True, slots=True)
class Metric:
    """``name`` as scrapers see it, but for the endings of a histogram's parts. ``read`` finds its values."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    read: Callable[[Health], Samples]


def _one(key: str) -> Callable[[Health], Samples]:
    """A number of its own; what the machine doesn't have is left out."""

    def read(health: Health) -> Samples:
        if health.get(key) is not None:
            yield (), health[key]

    return read


def _each(key: str) -> Callable[[Health], Samples]:
    def read(health: Health) -> Samples:
        for name, value in health.get(key, {}).items():
            yield (name,), value

    return read


def _of_tasks(key: str, *only: str) -> Callable[[Health], Samples]:
    def read(health: Health) -> Samples:
        for task, figures in health.get("tasks", {}).items():
            for name, value in figures[key].items():
                if not only or name in only:
                    yield (task, name), value

    return read


def _durations(health: Health) -> Samples:
    for task, figures in health.get("tasks", {}).items():
        # OpenMetrics writes every bound as a float.
        within = [(str(float(bound)), count) for bound, count in figures["within_s"].items()]
        yield (task,), ([*within[:-1], ("+Inf", within[-1][1])], figures["seconds"]["total"])


def _states(health: Health) -> Samples:
    for state in STATES:
        yield (state,), int(health.get("state") == state)


def _moved(health: Health) -> Samples:
    for task, figures in health.get("drift", {}).items():
        yield (task,), int(figures["moved"])


METRICS = (
    Metric(
        "edgeslm_build_info", "gauge", "Always 1; the version is a label.", ("version",),
        lambda health: iter([((__version__,), 1)]),
    ),
    Metric("edgeslm_state", "gauge", "1 for the state that the node is in.", ("state",), _states),
    Metric("edgeslm_uptime_seconds", "gauge", "Time since the daemon started.", (), _one("uptime_s")),
    Metric(
        "edgeslm_results_total", "counter", "Results, by task and by status or error code.",
        ("task", "status"), _of_tasks("results"),
    ),
    Metric(
        "edgeslm_result_duration_seconds", "histogram",
        "Time from the receipt of a request to its result, without errors.", ("task",), _durations,
    ),
    Metric(
        "edgeslm_phase_seconds_total", "counter",
        "Time of requests in the queue, in prefill and in decode.",
        ("task", "phase"), _of_tasks("seconds", "queue", "prefill", "decode"),
    ),
    Metric(
        "edgeslm_tokens_total", "counter", "Tokens of prompts and answers.",
        ("task", "kind"), _of_tasks("tokens"),
    ),
    Metric("edgeslm_queue_length", "gauge", "Waiting requests.", (), _one("queue")),
    Metric("edgeslm_requests_in_flight", "gauge", "Running requests.", (), _one("in_flight")),
    Metric(
        "edgeslm_repeats_total", "counter",
        "Deduplicated requests: attached to a running one, or the stored result resent.",
        ("how",), _each("repeats"),
    ),
    Metric(
        "edgeslm_dropped_total", "counter", "Messages without a result, by reason.",
        ("reason",), _each("dropped"),
    ),
    Metric(
        "edgeslm_broker_dropped_total", "counter",
        "Messages of any client that the broker has dropped since this node first saw its count.",
        (), _one("broker_dropped"),
    ),
    Metric(
        "edgeslm_sessions_lost_total", "counter", "Times that the broker had forgotten the node's session.",
        (), _one("session_lost"),
    ),
    Metric(
        "edgeslm_engine_restarts_total", "counter",
        "Engine crashes, each followed by a restart.",
        ("model",), _each("engine_restarts"),
    ),
    Metric(
        "edgeslm_resident_memory_bytes", "gauge", "Resident memory of the daemon and of each engine.",
        ("process",), _each("memory_bytes"),
    ),
    Metric(
        "edgeslm_temperature_celsius", "gauge", "Hottest thermal zone, if there is one.",
        (), _one("temperature_c"),
    ),
    Metric(
        "edgeslm_drift_moved", "gauge", "1 if messages have drifted from the training data.",
        ("task",), _moved,
    ),
    Metric(
        "edgeslm_alerts", "gauge", "Number of alerts in health.",
        (), lambda health: iter([((), len(health.get("alerts", ())))]),
    ),
)  # fmt: skip


def exposition(health: Health, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics where ``accept`` asks for it, else Prometheus's own format.

    :param accept: the header of a scraper's request.
    """
    from prometheus_client.exposition import choose_encoder  # a megabyte that only those need who scrape

    encode, content_type = choose_encoder(accept)
    return encode(_Sample(health)), content_type


class _Sample:
    """``health`` as the registry that the library's encoders read."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core

        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        for metric in METRICS:
            family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.read(self._health):
                family.add_metric(labels, *(value if metric.kind == "histogram" else (value,)))
            if family.samples:
                yield family
