"""What every request passes first: its id, its line in log and metrics, the headers that keep browsers strict."""

import logging
import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.body import ClientGone
from gateway.metrics import GatewayMetrics
from gateway.problems import Problem
from servicekit.errors import Reason
from servicekit.rpc.interceptors.request_ids import HEADER, bind_request_id, current_request_id
from servicekit.telemetry.trace_context import HEADER as TRACEPARENT
from servicekit.telemetry.trace_context import current_trace
from servicekit.telemetry.tracing import OFF, Kind, Tracing

logger = logging.getLogger(__name__)

NO_ROUTE = "none"
# The page has a policy of its own.
STRICT: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
TRANSPORT_SECURITY: Final = "max-age=31536000"


class Edge:
    """The outermost ASGI application. It logs no header, no query and no value in a path: there may be secrets."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, by_hand: Collection[str], tracing: Tracing = OFF) -> None:
        self._app = app
        self._metrics = metrics
        self._by_hand = frozenset(by_hand)  # paths that are their own routes
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        bind_request_id([(name, headers.get(name, "")) for name in (HEADER, TRACEPARENT)])
        # Probes have no traces.
        is_call = self._tracing.is_on and scope["path"] not in self._by_hand
        if is_call and self._tracing.samples(current_trace()):
            await self._record(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _record(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request in a span, which ends when the answer begins: an event stream may last for days."""
        method = scope["method"]
        attributes = {"http.request.method": method}
        with self._tracing.span(method, Kind.SERVER, current_trace(), attributes=attributes) as span:

            async def send_and_end(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.start":
                    route = scope["state"].get("route", NO_ROUTE)
                    span.rename(f"{method} {route}")
                    span.set({"http.route": route, "http.response.status_code": message["status"]})
                    if message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        span.fail(str(message["status"]))
                    span.end()

            await self._serve(scope, receive, send_and_end)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 0  # 0: the client left before there was an answer

        async def send_strictly(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[HEADER] = current_request_id()
                for name, value in STRICT.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("strict-transport-security", TRANSPORT_SECURITY)
            await send(message)

        try:
            await self._app(scope, receive, send_strictly)
        finally:
            seconds = time.perf_counter() - started
            unknown = scope["path"] if scope["path"] in self._by_hand else NO_ROUTE
            route = scope["state"].get("route", unknown)
            self._metrics.count(scope["method"], route, status, seconds)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug(
                    "%s %s %d", scope["method"], route, status, extra={"milliseconds": round(seconds * 1000, 1)}
                )


class Failures:
    """Answers with a problem what the application in it raises."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        has_started = False

        async def noticing(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self._app(scope, receive, noticing)
        except ClientGone:
            logger.debug("the client left while it sent its request")
        except Problem as problem:
            await problem.response(current_request_id())(scope, receive, send)
        except Exception:
            logger.exception("a request failed")
            if has_started:
                raise
            internal = Problem(
                HTTPStatus.INTERNAL_SERVER_ERROR,
                Reason.INTERNAL_ERROR,
                f"something went wrong here; the log has it under the request id {current_request_id()}",
            )
            await internal.response(current_request_id())(scope, receive, send)
