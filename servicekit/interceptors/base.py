"""The shape of an interceptor: it surrounds a call as a coroutine, unary or streaming alike."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Message | None]]

# Health and reflection are open to everyone and none of our business.
OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Surrounds every call of our services.

    Handlers are coroutines: a unary one returns its response, a streaming one writes to its context and
    returns None. So one `surround` serves both, and cleanup runs at once when a stream is cancelled (a
    generator's would wait for the garbage collector).
    """

    def __init__(self) -> None:
        # Wrapped once per method, not once per call.
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    @abstractmethod
    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Await `call(request, context)` and return what it returned. `method` is "/package.Service/Method".

        Outside Validation, which decodes it, the request is still bytes.
        """

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """Return the method's handler, surrounded."""
        method = details.method
        wrapped = self._handlers.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(details)
        if handler is None or method.startswith(OPEN_SERVICES) or handler.request_streaming:
            return handler
        self._handlers[method] = wrapped = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> Any:
        call = behaviour_of(handler)

        async def surrounded(request: Message, context: Context) -> Message | None:
            return await self.surround(call, method, request, context)

        return like(handler, surrounded, handler.request_deserializer)


def behaviour_of(handler: Any) -> Call:
    """Return the coroutine function of a handler."""
    behaviour: Call = handler.unary_stream if handler.response_streaming else handler.unary_unary
    return behaviour


def like(handler: Any, behaviour: Call, deserializer: Callable[[bytes], Message] | None) -> Any:
    """Return a handler of the same kind with another behaviour."""
    kind = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return kind(behaviour, deserializer, handler.response_serializer)
