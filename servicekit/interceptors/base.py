"""The shape of an interceptor: it surrounds a call as a coroutine, unary or streaming alike."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Message | None]]


class CallInterceptor:
    """Surrounds every call of our services.

    Handlers are coroutines: a unary one returns its response, a streaming one writes to its context and
    returns None. So one `surround` serves both, and cleanup runs at once when a stream is cancelled (a
    generator's would wait for the garbage collector).
    """

    @abstractmethod
    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Await `call(request, context)` and return what it returned. `method` is "/package.Service/Method".

        Outside Validation, which decodes it, the request is still bytes.
        """

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the method's handler, surrounded."""
        # No coroutine around the coroutine: every one of them is walked through at every step of the call.
        surrounded = partial(self.surround, behaviour_of(handler), method)
        return like(handler, surrounded, handler.request_deserializer)


class Guarded(grpc.GenericRpcHandler):
    """Services whose every call is surrounded by all `interceptors`, the first one outermost.

    Add services to it as to a server, then it to the server, last: it answers what is asked of methods that there are
    not with `unknown`. gRPC's own interceptors would cost every call a round each; these are put around a method once.
    """

    def __init__(self, interceptors: Sequence[CallInterceptor], *, unknown: Callable[[str], Any]) -> None:
        self._interceptors = interceptors
        self._unknown = unknown
        self._services: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, services: Sequence[grpc.GenericRpcHandler]) -> None:
        """Add services; generated code calls this."""
        self._services.extend(services)

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing, as grpc.aio's server does; generated code calls this."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the surrounded handler of a method."""
        method = details.method
        handler = self._handlers.get(method)
        if handler is None:
            found = (service.service(details) for service in self._services)
            handler = next((handler for handler in found if handler is not None), None)
            if handler is None:
                return self._unknown(method)  # and not kept: made-up names are without end
            self._handlers[method] = handler = self._surrounded(handler, method)
        return handler

    def _surrounded(self, handler: Any, method: str) -> Any:
        if handler.request_streaming:
            raise NotImplementedError(f"{method}: streams of requests cannot be surrounded")
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap(handler, method)
        surrounded = behaviour_of(handler)

        # gRPC asks at every call whether this is a coroutine function; what is no function takes it long.
        async def serve(request: Any, context: Context) -> Message | None:
            return await surrounded(request, context)

        return like(handler, serve, handler.request_deserializer)


def behaviour_of(handler: Any) -> Call:
    """Return the coroutine function of a handler."""
    behaviour: Call = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return behaviour


def like(handler: Any, behaviour: Call, deserializer: Callable[[bytes], Message] | None) -> Any:
    """Return a handler of the same kind with another behaviour."""
    kind = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return kind(behaviour, deserializer, handler.response_serializer)
