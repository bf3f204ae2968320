"""The shape of an interceptor: it surrounds a call as a coroutine, unary or streaming alike."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
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
    async def surround(self, call: Call, method: str, request: Any, context: Context) -> Message | None:
        """Await `call(request, context)` and return what it returned. `method` is "/package.Service/Method".

        Outside Decoding the request is still bytes, and None for a call that is refused before it is read.
        """

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the method's handler, surrounded."""
        # No coroutine around the coroutine: every one of them is walked through at every step of the call.
        surrounded = partial(self.surround, unwrap(handler), method)
        return rewrap(handler, surrounded, handler.request_deserializer)


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
