"""Prometheus metrics: the figures of ``health`` in Prometheus's format.

:data:`METRICS` lists all metrics; :func:`exposition` writes the text for a scraper. This module doesn't count
anything itself, so Prometheus and ``health`` can't differ. Label values are names from the configuration and
codes of the protocol; clients can't choose them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgeslm import __version__

Health = Mapping[str, Any]
Samples = Iterator[tuple[tuple[str, ...], Any]]
"""Pairs of label values and a sample: a number, or for a histogram the count of each bucket and the sum."""

STATES = ("starting", "online", "draining", "stopped")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. ``name`` excludes the suffixes ``_bucket``, ``_sum`` and ``_count`` of a histogram.

    ``key`` is the key of the metric's value in the dict that :func:`figures_of` returns. For a metric without
    labels, the value is a number; for a metric with one label, it is a dict from label value to sample. A
    metric with two labels has such a dict for each task. If ``only`` is given, samples with other values of
    the second label are ignored. A metric without labels, or with one label, is left out if its value is
    missing.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    key: str
    only: tuple[str, ...] = ()

    def read(self, figures: Mapping[str, Any]) -> Samples:
        if len(self.labels) == 2:
            for task, of_task in figures["tasks"].items():
                for name, value in of_task[self.key].items():
                    if not self.only or name in self.only:
                        yield (task, name), value
        elif self.labels:
            for name, value in figures.get(self.key, {}).items():
                yield (name,), value
        elif figures.get(self.key) is not None:
            yield (), figures[self.key]


def figures_of(health: Health) -> dict[str, Any]:
    """A copy of ``health`` with additional keys, which :data:`METRICS` use."""
    tasks = health.get("tasks", {})
    return {
        **health,
        "tasks": tasks,
        "version": {__version__: 1},
        "state": {state: int(health.get("state") == state) for state in STATES},
        "durations": {task: _duration(figures) for task, figures in tasks.items()},
        "drift": {task: int(figures["moved"]) for task, figures in health.get("drift", {}).items()},
        "alerts": len(health.get("alerts", ())),
    }


def _duration(figures: Mapping[str, Any]) -> tuple[list[tuple[str, int]], float]:
    # OpenMetrics writes every bound as a float.
    within = [(str(float(bound)), count) for bound, count in figures["within_s"].items()]
    return [*within[:-1], ("+Inf", within[-1][1])], figures["seconds"]["total"]


METRICS = (
    Metric(
        "edgeslm_build_info", "gauge", "Always 1; the version is a label.", ("version",), "version",
    ),
    Metric("edgeslm_state", "gauge", "1 for the state that the node is in.", ("state",), "state"),
    Metric("edgeslm_uptime_seconds", "gauge", "Time since the daemon started.", (), "uptime_s"),
    Metric(
        "edgeslm_results_total", "counter", "Results, by task and by status or error code.",
        ("task", "status"), "results",
    ),
    Metric(
        "edgeslm_result_duration_seconds", "histogram",
        "Time from the receipt of a request to its result, without errors.", ("task",), "durations",
    ),
    Metric(
        "edgeslm_phase_seconds_total", "counter",
        "Time of requests in the queue, in prefill and in decode.",
        ("task", "phase"), "seconds", ("queue", "prefill", "decode"),
    ),
    Metric(
        "edgeslm_tokens_total", "counter", "Tokens of prompts and answers.",
        ("task", "kind"), "tokens",
    ),
    Metric("edgeslm_queue_length", "gauge", "Waiting requests.", (), "queue"),
    Metric("edgeslm_requests_in_flight", "gauge", "Running requests.", (), "in_flight"),
    Metric(
        "edgeslm_repeats_total", "counter",
        "Deduplicated requests: attached to a running one, or the stored result resent.",
        ("how",), "repeats",
    ),
    Metric(
        "edgeslm_dropped_total", "counter", "Messages without a result, by reason.",
        ("reason",), "dropped",
    ),
    Metric(
        "edgeslm_broker_dropped_total", "counter",
        "Messages of any client that the broker has dropped since this node first saw its count.",
        (), "broker_dropped",
    ),
    Metric(
        "edgeslm_sessions_lost_total", "counter", "Times that the broker had forgotten the node's session.",
        (), "session_lost",
    ),
    Metric(
        "edgeslm_engine_restarts_total", "counter",
        "Engine crashes, each followed by a restart.",
        ("model",), "engine_restarts",
    ),
    Metric(
        "edgeslm_resident_memory_bytes", "gauge", "Resident memory of the daemon and of each engine.",
        ("process",), "memory_bytes",
    ),
    Metric(
        "edgeslm_temperature_celsius", "gauge", "Hottest thermal zone, if there is one.",
        (), "temperature_c",
    ),
    Metric(
        "edgeslm_drift_moved", "gauge", "1 if messages have drifted from the training data.",
        ("task",), "drift",
    ),
    Metric(
        "edgeslm_alerts", "gauge", "Number of alerts in health.",
        (), "alerts",
    ),
)  # fmt: skip


def exposition(health: Health, accept: str = "") -> tuple[bytes, str]:
    """The metrics as text, and the content type.

    :param accept: the ``Accept`` header of the scraper's request. If the ``Accept`` header asks for the
        OpenMetrics format, the text is in that format, otherwise in Prometheus's text format.
    """
    from prometheus_client.exposition import choose_encoder  # costs 1 MB of memory

    encode, content_type = choose_encoder(accept)
    return encode(_Sample(health)), content_type


class _Sample:
    """Makes ``health`` look like a registry of ``prometheus_client``, which the library's encoders read."""

    def __init__(self, health: Health) -> None:
        self._figures = figures_of(health)

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core

        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        for metric in METRICS:
            family = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.read(self._figures):
                family.add_metric(labels, *(value if metric.kind == "histogram" else (value,)))
            if family.samples:
                yield family
