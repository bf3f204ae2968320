"""An OpenTelemetry collector: takes spans by OTLP over HTTP, and keeps them for tests to look at."""

import gzip
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.waiting import eventually

RUN = "playbook.run.id"


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str  # "": it has none
    links: tuple[tuple[str, str], ...]  # trace and span
    attributes: Mapping[str, Any]
    has_failed: bool

    @property
    def run_id(self) -> str:
        return str(self.attributes.get(RUN, ""))


class Collector:
    """Use it with `with`; `environment` lets a service send its spans here, soon."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.status = 200  # what senders are answered
        self.requests = 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/v1/traces" and collector.status == 200:
                    collector.spans += spans_in(ExportTraceServiceRequest.FromString(body))
                collector.requests += 1
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def environment(self) -> dict[str, str]:
        port = self._server.server_address[1]
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of_run(self, run_id: str) -> list[Span]:
        return [span for span in self.spans if span.run_id == run_id]

    async def named(self, run_id: str, *names: str, trace_id: str = "") -> dict[str, Span]:
        """Wait for spans of a run, by name (the last of each); those of one trace, if it is given."""

        def found() -> dict[str, Span]:
            return {span.name: span for span in self.of_run(run_id) if trace_id in ("", span.trace_id)}

        try:
            await eventually(lambda: found().keys() >= set(names), 10)
        except AssertionError:
            raise AssertionError(f"no {set(names) - found().keys()} of {run_id}, only {found().keys()}") from None
        return found()


def spans_in(request: ExportTraceServiceRequest) -> Iterable[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service,
                    span.name,
                    trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    _attributes(span.attributes),
                    span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}
