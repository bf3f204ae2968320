"""The shape of an interceptor: it surrounds a call as a coroutine, unary or streaming alike."""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from servicekit.errors import ServiceError
from servicekit.rpc.admission import Admission

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Message | None]]


class CallInterceptor:
    """Surrounds every call of our services.

    Handlers are coroutines: a unary one returns its response, a streaming one writes to its context and
    returns None. So one `surround` serves both, and cleanup runs at once when a stream is cancelled (a
    generator's would wait for the garbage collector).
    """

    @abstractmethod
    async def surround(self, call: Call, method: str, request: Any, context: Context) -> Message | None:
        """Await `call(request, context)` and return what it returned. `method` is "/package.Service/Method".

        Outside Decoding the request is still bytes, and None for a call that is refused before it is read.
        """

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the method's handler, surrounded."""
        # No coroutine around the coroutine: every one of them is walked through at every step of the call.
        surrounded = partial(self.surround, unwrap(handler), method)
        return rewrap(handler, surrounded, handler.request_deserializer)


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
        name = details.method
        method = self._methods.get(name)
        if method is None:
            found = (service.service(details) for service in self._services)
            handler = next((handler for handler in found if handler is not None), None)
            if handler is None:
                return self._unknown(name) if self._unknown else None  # and not kept: made-up names are without end
            self._methods[name] = method = self._surrounded(handler, name)
        try:
            self._admission.admit(details.invocation_metadata)
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


def unread(behaviour: Callable[[Context], Awaitable[Message | None]]) -> Any:
    """Return a handler of a call that is answered without its request: a stream of requests that is not read.

    On the wire all kinds of calls are the same, so it suits callers of any kind.
    """

    async def answer(_requests: Any, context: Context) -> None:
        await behaviour(context)

    return grpc.stream_stream_rpc_method_handler(answer)


def unwrap(handler: Any) -> Call:
    """Return the coroutine function of a handler."""
    behaviour: Call = getattr(handler, _kind(handler))
    return behaviour


def rewrap(handler: Any, behaviour: Call, deserializer: Callable[[bytes], Message] | None) -> Any:
    """Return a handler of the same kind with another behaviour."""
    make = getattr(grpc, f"{_kind(handler)}_rpc_method_handler")
    return make(behaviour, deserializer, handler.response_serializer)


def _kind(handler: Any) -> str:
    return f"{_count(handler.request_streaming)}_{_count(handler.response_streaming)}"


def _count(streaming: bool) -> str:
    return "stream" if streaming else "unary"
