"""The base of all interceptors, and how a gRPC method handler is taken apart and put together."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

Context = grpc.aio.ServicerContext[Any, Any]
# What serves a call, as gRPC names it: takes the request and the context, and returns a coroutine. That of a unary call
# returns the response; that of a streaming one writes its responses to the context and returns None.
Behaviour = Callable[[Any, Context], Awaitable[Message | None]]


class Interceptor(ABC):
    """Is put around the handler of each method, once."""

    @abstractmethod
    def wrap(self, handler: Any, method: str) -> Any:
        """Return a handler with this interceptor around it. `method` is "/package.Service/Method"."""


class CallInterceptor(Interceptor):
    """An interceptor that runs around every call.

    All our behaviours return coroutines, so one `intercept` serves unary and streaming methods. A cancelled coroutine
    also cleans up at once; a generator would wait for the garbage collector.
    """

    @abstractmethod
    def intercept(self, proceed: Behaviour, method: str, request: Any, context: Context) -> Awaitable[Message | None]:
        """Return `proceed(request, context)`; its result is the call's.

        A coroutine function may await it and do something afterwards. One that only looks at a call before it is served
        is a plain function: each coroutine in the chain costs time at every step of a call.

        Outside Decoding the request is still bytes, and None when the call is refused before its request is read.
        """

    def wrap(self, handler: Any, method: str) -> Any:
        """Return a handler that runs `intercept` around each call."""
        intercepted = partial(self.intercept, unwrap(handler), method)
        return rewrap(handler, intercepted, handler.request_deserializer)


def unwrap(handler: Any) -> Behaviour:
    """Return the behaviour of a handler."""
    behaviour: Behaviour = getattr(handler, _kind(handler))
    return behaviour


def rewrap(handler: Any, behaviour: Behaviour, deserializer: Callable[[bytes], Message] | None) -> Any:
    """Return a handler of the same kind with another behaviour."""
    make = getattr(grpc, f"{_kind(handler)}_rpc_method_handler")
    return make(behaviour, deserializer, handler.response_serializer)


def answer_unread(answer: Callable[[Context], Awaitable[Message | None]]) -> Any:
    """Return a handler that answers a call without reading its request.

    It has the kind stream-stream, whose requests are read by the behaviour and not by gRPC. On the wire all kinds are
    the same, so it answers callers of any kind.
    """

    async def behaviour(_requests: Any, context: Context) -> None:
        await answer(context)

    return grpc.stream_stream_rpc_method_handler(behaviour)


def status_name(context: Context) -> str:
    """Return the name of the status that a call was aborted with."""
    status = context.code()
    return status.name if isinstance(status, grpc.StatusCode) else grpc.StatusCode(status).name


def _kind(handler: Any) -> str:
    """Return the kind of a handler, as gRPC spells it: "unary_stream"."""
    return f"{_word(handler.request_streaming)}_{_word(handler.response_streaming)}"


def _word(is_streaming: bool) -> str:
    return "stream" if is_streaming else "unary"
