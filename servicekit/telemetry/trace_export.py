"""Spans by OpenTelemetry's SDK, sent to a collector. Only `servicekit.telemetry.tracing` imports this, when it must."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from servicekit.telemetry.outages import Outage, first_line
from servicekit.telemetry.trace_context import TraceContext
from servicekit.telemetry.tracing import Attributes, Kind, Recorder, Span

logger = logging.getLogger(__name__)

LAST_SECONDS: Final = 1.0  # in which the last spans must have gone out at a stop
_KINDS: Final = {kind: SpanKind[kind.value] for kind in Kind}


class Exporting(Recorder):
    """Sends the spans of a process of `service` to the collector at `endpoint`, in the background.

    What the SDK reads from the environment beside: OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, _TIMEOUT,
    _COMPRESSION, _CERTIFICATE, and OTEL_BSP_*.
    """

    def __init__(self, endpoint: str, *, service: str) -> None:
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # servicekit.telemetry.tracing has decided before
            resource=Resource.create({"service.name": service}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(OTLPSpanExporter(endpoint=endpoint))))
        self._tracer = self._provider.get_tracer("playbook-runs")

    def start(
        self, name: str, kind: Kind, parent: TraceContext | None, link: TraceContext | None, since: int | None
    ) -> tuple[Span, TraceContext]:
        """Start a span."""
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)), Context())
        links = [Link(_remote(link))] if link else None
        span = self._tracer.start_span(name, context, _KINDS[kind], links=links, start_time=since)
        place = span.get_span_context()
        return _Recorded(span), TraceContext(f"{place.trace_id:032x}", f"{place.span_id:016x}", True)

    async def close(self) -> None:
        """Send what is left, within a second: a collector that is away must not delay the stop."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the time was over, and the loop with it: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # A daemon: the loop would wait for a thread of its own.
        threading.Thread(target=shut_down, daemon=True, name="last spans").start()
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await done.wait()
        except TimeoutError:
            logger.warning("the last spans are lost: the collector takes them too slowly")


class _Recorded(Span):
    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        self._has_ended = False

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def link(self, context: TraceContext) -> None:
        self._span.add_link(_remote(context))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._span.end()


class _Exporter(SpanExporter):
    """Sends spans, and says once a minute that the collector takes none. The SDK would say so at every attempt."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._outage = Outage("spans are lost", logger)
        self._reason = _Reason()
        of_sdk = logging.getLogger("opentelemetry")
        of_sdk.handlers = [self._reason]
        of_sdk.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._outage.ended()
        else:
            self._outage.failed(self._reason.last)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Reason(logging.Handler):
    """Keeps what the SDK logged last."""

    last = "the collector does not take them"

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        self.last = first_line(Exception(record.getMessage()))


def _remote(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT),
    )
