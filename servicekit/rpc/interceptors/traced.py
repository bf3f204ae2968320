"""Makes a span of each call that is recorded: of a stream until its first message, for it may last for days."""

from collections.abc import Awaitable
from functools import partial
from typing import Any, Final

from google.protobuf.message import Message

from servicekit.rpc.interceptors.base import Behaviour, Context, Interceptor, rewrap, status_name, unwrap
from servicekit.telemetry import logs
from servicekit.telemetry.trace_context import current_trace
from servicekit.telemetry.tracing import RUN_ATTRIBUTE, Kind, Span, Tracing

SYSTEM: Final = {"rpc.system.name": "grpc"}


class Traced(Interceptor):
    """Records calls. It stands outside of AccessLog, so that their line has the trace id."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def wrap(self, handler: Any, method: str) -> Any:
        """Return a handler that records calls. Of the others only the decision is paid for, and no coroutine."""
        serve = partial(self._serve, unwrap(handler), method.lstrip("/"))
        return rewrap(handler, serve, handler.request_deserializer)

    def _serve(self, proceed: Behaviour, method: str, request: Any, context: Context) -> Awaitable[Message | None]:
        if not self._tracing.samples(current_trace()):
            return proceed(request, context)
        return self._record(proceed, method, request, context)

    async def _record(self, proceed: Behaviour, method: str, request: Any, context: Context) -> Message | None:
        attributes = {**SYSTEM, "rpc.method": method}
        with self._tracing.span(method, Kind.SERVER, current_trace(), attributes=attributes) as span:
            watched: Any = _Watched(context, span)
            code = "CANCELLED"
            try:
                response = await proceed(request, watched)
                code = "OK"
            except Exception:
                code = status_name(context)
                raise
            finally:
                span.set({"rpc.response.status_code": code})
                _name_run(span)
            _name_run(span, response)
            return response


class _Watched:
    """The context of a call whose span ends with the first message that is written."""

    def __init__(self, context: Context, span: Span) -> None:
        self._context = context
        self._span = span

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Message) -> None:
        """Write a message of the stream."""
        await self._context.write(message)
        _name_run(self._span, message)
        self._span.end()


def _name_run(span: Span, response: Message | None = None) -> None:
    """Note which run a call is about: the one in its response, else the one that its request names."""
    run = getattr(response, "run", None)
    if run_id := run.id if run else logs.bound("run_id"):
        span.set({RUN_ATTRIBUTE: run_id})
