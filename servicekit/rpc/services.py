"""Services with interceptors around their methods, and admission before them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from servicekit.errors import ServiceError
from servicekit.rpc.admission import Admission
from servicekit.rpc.interceptors.base import CallInterceptor, Context, rewrap, unread, unwrap
from servicekit.rpc.interceptors.request_ids import bind_request_id


class _Method(NamedTuple):
    """What serves a method: its handler, surrounded, and the interceptors around a refusal."""

    handler: Any
    refuse: Callable[[ServiceError, Context], Awaitable[Message | None]]


class InterceptedServices(grpc.GenericRpcHandler):
    """Services whose every call is let in by `admission` and surrounded by `answering` and `serving`, the first one
    outermost.

    `admission` decides before a request is read. A call that it refuses passes only `answering`, the interceptors that
    turn an error into an answer.

    Add services to it as to a server, then it to the server. Of methods that there are not, `unknown` makes the
    answer; None leaves them to others. gRPC's own interceptors would cost every call a round each; these are put around
    a method once.
    """

    def __init__(
        self,
        answering: Sequence[CallInterceptor],
        serving: Sequence[CallInterceptor],
        *,
        admission: Admission,
        unknown: Callable[[str], Any] | None = None,
    ) -> None:
        self._answering = answering
        self._serving = serving
        self._admission = admission
        self._unknown = unknown
        self._services: list[grpc.GenericRpcHandler] = []
        self._methods: dict[str, _Method] = {}

    def add_generic_rpc_handlers(self, services: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add services; generated code calls this."""
        self._services.extend(services)

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing, as grpc.aio's server does; generated code calls this."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call: the method's, surrounded, or one that refuses the call without reading it.

        gRPC calls this in the call's own task.
        """
        name, metadata = details.method, details.invocation_metadata
        method = self._methods.get(name)
        if method is None:
            found = (service.service(details) for service in self._services)
            handler = next((handler for handler in found if handler is not None), None)
            if handler is None:
                if self._unknown is None:
                    return None
                bind_request_id(metadata)
                return self._unknown(name)  # and not kept: made-up names are without end
            self._methods[name] = method = self._surrounded(handler, name)
        bind_request_id(metadata)
        try:
            self._admission.admit(metadata)
        except ServiceError as error:
            return unread(partial(method.refuse, error))
        return method.handler

    def _surrounded(self, handler: Any, name: str) -> _Method:
        for interceptor in reversed([*self._answering, *self._serving]):
            handler = interceptor.wrap(handler, name)
        surrounded = unwrap(handler)

        # A stream of requests has never arrived: each part of it may be as large as a request, and it may never end.
        arrives_whole = not handler.request_streaming

        # gRPC asks at every call whether this is a coroutine function; what is no function takes it long.
        async def serve(request: Any, context: Context) -> Message | None:
            if arrives_whole:
                self._admission.received(len(request))
            try:
                return await surrounded(request, context)
            except asyncio.CancelledError:
                if error := self._admission.ending():
                    return await refuse(error, context)
                raise
            finally:
                self._admission.left()

        async def fail(error: Any, _context: Context) -> Message | None:
            raise error

        refusal = rewrap(handler, fail, None)
        for interceptor in reversed(self._answering):
            refusal = interceptor.wrap(refusal, name)
        refuse = unwrap(refusal)
        return _Method(rewrap(handler, serve, handler.request_deserializer), refuse)
