"""gRPC services with admission before each call and interceptors around it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from servicekit.errors import ServiceError
from servicekit.rpc.admission import Admission
from servicekit.rpc.interceptors.base import Context, Interceptor, answer_unread, rewrap, unwrap
from servicekit.rpc.interceptors.request_ids import bind_request_id


class _Method(NamedTuple):
    """What serves a method: the handler of admitted calls, and what refuses the others."""

    handler: Any
    is_watch: bool
    refuse: Callable[[ServiceError, Context], Awaitable[Message | None]]


class InterceptedServices(grpc.GenericRpcHandler):
    """The services of one server. Add services to it as to a server, then it to the server.

    `admission` decides on each call before its request is read. An admitted call passes the `outer` and the `inner`
    interceptors, the first of each outermost. A refused call passes the `outer` ones only, which turn the error into an
    answer. `unknown` makes the handler of a method that no service has; None leaves it to the server's next handler.

    gRPC's own interceptors run anew for every call; ours are put around a method once.
    """

    def __init__(
        self,
        outer: Sequence[Interceptor],
        inner: Sequence[Interceptor],
        *,
        admission: Admission,
        unknown: Callable[[str], Any] | None = None,
    ) -> None:
        self._outer = outer
        self._inner = inner
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
        """Return the handler of a call; gRPC calls this in the task of the call."""
        name, metadata = details.method, details.invocation_metadata
        method = self._methods.get(name) or self._found(details)
        if method is None:
            if self._unknown is None:
                return None
            bind_request_id(metadata)
            return self._unknown(name)
        bind_request_id(metadata)
        try:
            self._admission.admit(metadata, is_watch=method.is_watch)
        except ServiceError as error:
            return answer_unread(partial(method.refuse, error))
        return method.handler

    def _found(self, details: grpc.HandlerCallDetails) -> _Method | None:
        """Look a method up in the services, and keep it. Unknown names are not kept: callers can make up any number."""
        found = (service.service(details) for service in self._services)
        handler = next((handler for handler in found if handler is not None), None)
        if handler is None:
            return None
        self._methods[details.method] = method = self._intercepted(handler, details.method)
        return method

    def _intercepted(self, handler: Any, name: str) -> _Method:
        async def fail(error: Any, _context: Context) -> Message | None:
            raise error

        refuse = unwrap(_wrapped(rewrap(handler, fail, None), name, self._outer))
        handler = _wrapped(handler, name, [*self._outer, *self._inner])
        intercepted = unwrap(handler)
        # A stream of requests counts as arriving until its call ends: it may go on for ever, and each of its messages
        # may be as large as a request.
        arrives_whole = not handler.request_streaming

        # A function and not a method: gRPC asks at every call whether it is a coroutine function, and learns that of a
        # plain function fastest.
        async def serve(request: Any, context: Context) -> Message | None:
            if arrives_whole:
                self._admission.received(len(request))
            try:
                return await intercepted(request, context)
            except asyncio.CancelledError:
                if error := self._admission.abort_error():
                    return await refuse(error, context)
                raise
            finally:
                self._admission.release()

        served = rewrap(handler, serve, handler.request_deserializer)
        return _Method(served, bool(handler.response_streaming), refuse)


def _wrapped(handler: Any, name: str, interceptors: Sequence[Interceptor]) -> Any:
    """Return a handler with `interceptors` around it, the first one outermost."""
    for interceptor in reversed(interceptors):
        handler = interceptor.wrap(handler, name)
    return handler
