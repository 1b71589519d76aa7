"""Contexts that come and go, and the spans that are made of results. No collector."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from edgeslm.config.sections import Tracing
from edgeslm.errors import Busy, TimedOut
from edgeslm.messages import ErrorBody, Request, Result, Trace
from edgeslm.telemetry.tracing import Tracer
from tests.support.fakes import FakeService

SENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = SENT[:-2] + "00"
SECRET = "Spindle 3 smells"


class FakeProcessor(SpanProcessor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.error: Exception | None = None

    def on_end(self, span: ReadableSpan) -> None:
        if self.error is not None:
            raise self.error
        self.spans.append(span)

    def force_flush(self, timeout_millis: int = 0) -> bool:
        if self.error is not None:
            raise self.error
        return True


def make_tracer(processor: SpanProcessor, sample: float = 1.0) -> Tracer:
    class FakeTracer(Tracer):
        def _make_processor(self, endpoint: str) -> SpanProcessor:
            return processor

    tracer = FakeTracer(Tracing(endpoint="http://c", sample=sample), "hall", FakeService(triage=None))
    asyncio.run(tracer.start())
    return tracer


def request(trace: Trace | None, task: str = "triage") -> Request:
    return Request(task, SECRET, SECRET, f"{SECRET}/res", correlation=SECRET.encode(), trace=trace)


def answered(**timings_ms: float) -> Result:
    usage = {"prompt_tokens": 60, "completion_tokens": 2}
    timings = {"queue": 10.0, "prefill": 30.0, "decode": 5.0, "total": 50.0, **timings_ms}
    result = {"text": SECRET}
    return Result(SECRET, "triage", "ok", result, model="small@sha256:1f3a", timings_ms=timings, usage=usage)


def facts(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def test_a_request_in_a_trace_has_spans_below_its_senders() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    trace = tracer.trace(SENT)
    assert trace is not None and trace.parent == "b7ad6b7169203331"
    tracer.record(request(trace), answered())
    whole, *phases = processor.spans
    assert whole.context is not None and whole.parent is not None
    assert f"{whole.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert (f"{whole.parent.span_id:016x}", whole.parent.is_remote) == ("b7ad6b7169203331", True)
    assert trace.header == f"00-0af7651916cd43dd8448eb211c80319c-{whole.context.span_id:016x}-01"
    assert (whole.name, whole.kind) == ("request triage", SpanKind.CONSUMER)
    assert facts(whole) == {
        "edgeslm.task": "triage",
        "edgeslm.status": "ok",
        "edgeslm.model": "small@sha256:1f3a",
        "gen_ai.usage.input_tokens": 60,
        "gen_ai.usage.output_tokens": 2,
    }
    assert [span.name for span in phases] == ["queue", "prefill", "decode"]
    assert all(span.parent == whole.context for span in phases)
    assert len({span.context.span_id for span in processor.spans if span.context}) == 4


def test_times_are_those_of_the_result() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    tracer.record(request(tracer.trace(None)), answered())
    times = {span.name: (span.start_time or 0, span.end_time or 0) for span in processor.spans}
    lengths_ms = {name: (end - start) / 1e6 for name, (start, end) in times.items()}
    assert lengths_ms == {"request triage": 50.0, "queue": 10.0, "prefill": 30.0, "decode": 5.0}
    assert times["queue"][0] == times["request triage"][0]
    assert times["queue"][1] == times["prefill"][0] and times["prefill"][1] == times["decode"][0]


def test_no_text_and_nothing_that_the_sender_chose_is_in_a_span() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    tracer.record(request(tracer.trace(None)), answered())
    tracer.record(request(tracer.trace(None), task=SECRET), answered())
    error = ErrorBody.of(TimedOut(SECRET))
    tracer.record(request(tracer.trace(None)), replace(answered(), status="error", result=None, error=error))
    assert [span.name for span in processor.spans if span.name.startswith("request")] == [
        *("request triage", "request other", "request triage")
    ]
    assert not any(SECRET in span.to_json() for span in processor.spans)
    failed = processor.spans[8]
    assert (failed.status.status_code, facts(failed)["error.type"]) == (StatusCode.ERROR, "timeout")


def test_who_is_not_traced_is_told_so() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    trace = tracer.trace(UNSAMPLED)
    assert trace is not None and trace.header.endswith("-00")
    tracer.record(request(trace), answered())
    assert processor.spans == []


def test_busy_has_no_span() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    error = ErrorBody.of(Busy("full", retry_after_ms=1))
    tracer.record(request(tracer.trace(None)), Result("1", "triage", "error", error=error))
    assert processor.spans == []


@pytest.mark.parametrize(("sample", "least", "most"), [(0.0, 0, 0), (1.0, 1000, 1000), (0.3, 200, 400)])
def test_a_share_of_the_others_is_traced(sample: float, least: int, most: int) -> None:
    tracer = make_tracer(FakeProcessor(), sample)
    traces = [tracer.trace(None) for _ in range(1000)]
    assert least <= sum(trace is not None and trace.header.endswith("-01") for trace in traces) <= most


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_whatever_comes_what_goes_out_is_a_context(header: str) -> None:
    for tracer in (make_tracer(FakeProcessor()), Tracer(Tracing(), "hall", FakeService())):
        trace = tracer.trace(header)
        assert trace is None or re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", trace.header)


@pytest.mark.parametrize("header", [None, "", SENT.upper(), SENT + "\n", f"00-{'0' * 32}-{'1' * 16}-01"])
def test_without_a_collector_a_context_is_passed_on_as_it_came(header: str | None) -> None:
    tracer = Tracer(Tracing(), "hall", FakeService())
    asyncio.run(tracer.start())
    assert tracer.trace(SENT) == Trace(SENT, None)
    assert tracer.trace(header) is None
    tracer.record(request(Trace(SENT, None)), answered())


def test_what_goes_wrong_costs_no_request() -> None:
    processor = FakeProcessor()
    tracer = make_tracer(processor)
    processor.error = OSError("no room")
    tracer.record(request(tracer.trace(None)), answered())
    asyncio.run(tracer.stop())


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    tracer = Tracer(Tracing(endpoint="http://c"), "hall", FakeService())
    asyncio.run(tracer.start())
    assert tracer.problem is not None and "pip install '.[tracing]' in a clone" in tracer.problem
    assert tracer.trace(SENT) == Trace(SENT, None)
