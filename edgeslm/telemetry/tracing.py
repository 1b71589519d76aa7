"""OpenTelemetry traces: spans for queue, prefill and decode of each request, sent over OTLP/HTTP.

A request with a ``traceparent`` (W3C Trace Context) continues the client's trace. Other requests begin new
traces, of which a configured share is sampled. Spans are built from the timings of the result and don't
contain texts, topics or client ids. If the collector is down, spans are lost, but requests are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeslm import __version__
from edgeslm.config.extras import install_line
from edgeslm.config.sections import Tracing
from edgeslm.messages import Request, Result, Trace
from edgeslm.telemetry.extension import Extension, HasTasks

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger("edgeslm.telemetry")

PHASES = ("queue", "prefill", "decode")
QUEUE = 2048
"""Maximum number of spans that wait to be sent to the collector; further spans are dropped."""
TIMEOUT_S = 5.0
"""Timeout for sending a batch."""
STOP_S = 2.0
"""Timeout for sending the remaining spans when the node stops."""

_HEADER = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1


class Tracer(Extension):
    """Sends spans to the configured collector. Without a collector, trace contexts are only passed on.

    :param service: has the node's tasks. Unknown task names, which clients can choose freely, are not sent.
    """

    def __init__(self, section: Tracing, node: str, service: HasTasks | None = None) -> None:
        self._endpoint = section.endpoint
        self._sample = section.sample
        self._node = node
        self._service = service
        self._processor: SpanProcessor | None = None
        self._resource: Resource | None = None

    async def start(self) -> None:
        """Loads the exporter; a failure only sets :attr:`problem`, since traces are not essential."""
        if self._endpoint is None:
            return
        try:
            from opentelemetry.sdk.resources import Resource

            self._processor = self._make_processor(self._endpoint)
        except ImportError as error:
            self.problem = f"No traces are sent: {error.name} is missing; {install_line('tracing')}."
            log.error("%s", self.problem)
            return
        facts = {"service.name": "edgeslm", "service.version": __version__, "service.instance.id": self._node}
        self._resource = Resource.create(facts)

    async def stop(self) -> None:
        """Sends the remaining spans for at most :data:`STOP_S`.

        The sending thread is not joined, since a collector that hangs must not delay the exit.
        """
        processor, self._processor = self._processor, None
        if processor is None:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            with contextlib.suppress(Exception):  # errors of the library don't matter any more
                processor.force_flush(int(STOP_S * 1000))
                processor.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=end, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await ended.wait()

    def _make_processor(self, endpoint: str) -> SpanProcessor:
        """The processor that sends the spans. :raises ImportError: the extra ``tracing`` isn't installed."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if not log.isEnabledFor(logging.DEBUG):  # it logs often while a collector is down
            logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT_S)
        return BatchSpanProcessor(
            _ReportingExporter(exporter, self),
            max_queue_size=QUEUE,
            max_export_batch_size=QUEUE // 4,
        )

    def tell(self, taken: bool) -> None:
        """Updates :attr:`problem`; called in the sending thread after each batch. Repeated failures are
        logged once."""
        problem = None if taken else f"The collector at {self._endpoint} doesn't take the node's traces."
        if problem and not self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def trace(self, header: str | None) -> Trace | None:
        """The trace of a request with this untrusted ``traceparent`` header.

        Without a valid header, a new trace begins if there is a collector; otherwise the result is None.
        """
        found = _HEADER.fullmatch(header) if header is not None else None
        if self._processor is None:
            return Trace(found[0], None) if found else None
        if found:
            flags = int(found[3], 16) & _SAMPLED
            return Trace(f"00-{found[1]}-{random.getrandbits(64) or 1:016x}-{flags:02x}", found[2])
        number = random.getrandbits(128) or 1
        # As OpenTelemetry's TraceIdRatioBased, so that all services sample the same traces.
        flags = _SAMPLED if number & (2**64 - 1) < self._sample * 2**64 else 0
        return Trace(f"00-{number:032x}-{random.getrandbits(64) or 1:016x}-{flags:02x}", None)

    def record(self, request: Request, result: Result) -> None:
        """Queues the spans of an answered request; never raises.

        A ``busy`` result gets no spans, since a route retries the same request.
        """
        if self._processor is None or request.trace is None:
            return
        if result.error is not None and result.error.code == "busy":
            return
        try:
            for span in self._spans(request.trace, request.task, result):
                self._processor.on_end(span)
        except Exception as error:  # must not disturb requests
            log.error("a trace is not sent: %s", type(error).__name__)
            log.debug("a trace is not sent", exc_info=True)

    def _spans(self, trace: Trace, name: str, result: Result) -> list[Any]:
        """The request's span and one child span per phase.

        Child spans follow each other without gaps, since the result only has the total time of each phase.
        """
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        found = _HEADER.fullmatch(trace.header)
        if found is None or not int(found[3], 16) & _SAMPLED:
            return []

        def context(span_id: int, *, is_remote: bool = False) -> SpanContext:
            return SpanContext(int(found[1], 16), span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))

        own = context(int(found[2], 16))
        parent = context(int(trace.parent, 16), is_remote=True) if trace.parent else None
        is_known = self._service is not None and name in self._service.tasks
        task = name if is_known else "other"
        code = result.error.code if result.error is not None else None
        end_ns = time.time_ns()
        at_ns = end_ns - _ns(result.timings_ms.get("total", 0.0))
        common = {
            "resource": self._resource,
            "instrumentation_scope": InstrumentationScope("edgeslm", __version__),
        }
        facts = {
            "edgeslm.task": task,
            "edgeslm.status": result.status,
            "edgeslm.model": result.model,
            "error.type": code,
            "gen_ai.usage.input_tokens": result.usage.get("prompt_tokens"),
            "gen_ai.usage.output_tokens": result.usage.get("completion_tokens"),
        }
        spans = [
            ReadableSpan(
                name=f"request {task}",
                context=own,
                parent=parent,
                kind=SpanKind.CONSUMER,
                attributes={key: value for key, value in facts.items() if value is not None},
                status=Status(StatusCode.ERROR, code) if code else Status(StatusCode.UNSET),
                start_time=at_ns,
                end_time=end_ns,
                **common,
            )
        ]
        for phase in PHASES:
            if phase in result.timings_ms:
                begin_ns, at_ns = at_ns, at_ns + _ns(result.timings_ms[phase])
                spans.append(
                    ReadableSpan(
                        name=phase,
                        context=context(random.getrandbits(64) or 1),
                        parent=own,
                        attributes={"edgeslm.task": task},
                        start_time=begin_ns,
                        end_time=at_ns,
                        **common,
                    )
                )
        return spans


def _ns(milliseconds: float) -> int:
    return int(milliseconds * 1_000_000)


class _ReportingExporter:
    """An exporter that reports the outcome of each batch to the tracer."""

    def __init__(self, exporter: SpanExporter, tracer: Tracer) -> None:
        self._exporter = exporter
        self._tracer = tracer

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        self._tracer.tell(result.name == "SUCCESS")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))
