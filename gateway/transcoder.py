"""HTTP to gRPC: a request goes to the RPC whose annotation says so, and its response or stream comes back."""

from collections.abc import Mapping

import grpc
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from gateway import body
from gateway.answers import Answers
from gateway.problems import Problem
from gateway.request import build
from gateway.routes import Routes
from gateway.streams import Streams
from gateway.upstream import Call, Metadata, Upstream
from servicekit.errors import Reason
from servicekit.rpc.interceptors.request_ids import HEADER, current_request_id
from servicekit.telemetry.trace_context import HEADER as TRACEPARENT
from servicekit.telemetry.trace_context import current_traceparent
from servicekit.telemetry.tracing import RUN_ATTRIBUTE, current_span

LONGEST_TOKEN = 36_000  # a service reads no more metadata


class Transcoder:
    """An ASGI application of `routes`. `upstreams` has the service of each by its full name."""

    def __init__(
        self, routes: Routes, upstreams: Mapping[str, Upstream], answers: Answers, streams: Streams,
        *, max_body_bytes: int, call_seconds: float, body_seconds: float,
    ) -> None:  # fmt: skip
        self._routes = routes
        self._upstreams = upstreams
        self._answers = answers
        self._streams = streams
        self._max_body_bytes = max_body_bytes
        self._call_seconds = call_seconds
        self._body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. Raises Problem, and body.ClientGone."""
        path: str = scope["raw_path"].decode()
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        route, values = self._routes.find(method, path)
        scope["state"]["route"] = route.template.text
        if scope["method"] == "HEAD" and route.rpc.server_streaming:
            raise Problem.not_allowed("HEAD", ["GET"])

        headers = Headers(scope=scope)
        metadata = _metadata(headers)
        content = None
        if route.body:
            sent = await body.read(headers, receive, most_bytes=self._max_body_bytes, seconds=self._body_seconds)
            content = body.parse(headers, sent)
        request = build(route, values, scope["query_string"], content)
        if "run_id" in values:
            current_span().set({RUN_ATTRIBUTE: values["run_id"]})

        call = Call(route, self._upstreams[route.rpc.containing_service.full_name], request, metadata)
        if route.rpc.server_streaming:
            last = headers.get("last-event-id", "")
            await self._streams.serve(call, last, scope, receive, send)
            return
        try:
            response = await call.upstream.answer(call, seconds=self._call_seconds)
        except grpc.aio.AioRpcError as error:
            problem = Problem.of_call(error)
            answer = self._answers.null(route, problem)
            if answer is None:
                raise problem from error
        else:
            if run := getattr(response, "run", None):
                current_span().set({RUN_ATTRIBUTE: run.id})
            answer = self._answers.answer(route, response, path, scope["query_string"], headers)
        await answer(scope, receive, send)


def _metadata(headers: Headers) -> Metadata:
    """Return what a call carries of the request: the caller's token, which nothing here reads, the request's id
    and its place in a trace.

    Raises Problem for what no token can be.
    """
    given = headers.getlist("authorization")
    if len(given) > 1 or any(not one.isascii() or not one.isprintable() or len(one) > LONGEST_TOKEN for one in given):
        raise Problem.of_reason(Reason.TOKEN_INVALID, "the authorization header is not one `Bearer <JWT>`")
    pairs = [(HEADER, current_request_id())]
    if given:
        pairs.append(("authorization", given[0]))
    if traceparent := current_traceparent():
        pairs.append((TRACEPARENT, traceparent))
    return tuple(pairs)
