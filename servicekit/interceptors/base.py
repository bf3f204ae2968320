"""The shape of an interceptor: it surrounds a call as a coroutine, unary or streaming alike."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Message | None]]

# Health and reflection are open to everyone and none of our business.
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")


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


class InterceptorChain(grpc.aio.ServerInterceptor):
    """Call interceptors around each other, the first one outermost, as one of gRPC's.

    Each of gRPC's costs every call a round of its own; these are put around a method once. What is asked of methods
    that the server does not have is answered by `unknown`.
    """

    def __init__(self, interceptors: Sequence[CallInterceptor], *, unknown: Callable[[str], Any]) -> None:
        self._interceptors = interceptors
        self._unknown = unknown
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Return the method's handler, surrounded."""
        method = details.method
        wrapped = self._handlers.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(details)
        if handler is None:
            return self._unknown(method)  # and not kept: made-up names are without end
        if not method.startswith(OPEN_SERVICES) and not handler.request_streaming:
            for interceptor in reversed(self._interceptors):
                handler = interceptor.wrap(handler, method)
        self._handlers[method] = handler
        return handler


def behaviour_of(handler: Any) -> Call:
    """Return the coroutine function of a handler."""
    behaviour: Call = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return behaviour


def like(handler: Any, behaviour: Call, deserializer: Callable[[bytes], Message] | None) -> Any:
    """Return a handler of the same kind with another behaviour."""
    kind = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return kind(behaviour, deserializer, handler.response_serializer)
