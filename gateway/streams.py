"""Server-streaming calls as event streams."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from prometheus_client import Gauge
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.encoder import Encoder
from gateway.events import HEARTBEAT, RETRY, EventFormat, end_of
from gateway.problems import Problem
from gateway.upstream import Call
from servicekit.errors import Reason
from servicekit.rpc.interceptors.request_ids import current_request_id

logger = logging.getLogger(__name__)

# A refusal comes before the first message and at once. A stream that is quiet for longer has been accepted.
FIRST_SECONDS: Final = 1.0
HEARTBEAT_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 10.0  # in which a client makes room for an event
HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events until it has 4 kB of them
]


class _Left(Exception):
    """The client has gone, or this process stops."""


class _Ended(Exception):
    """The stream has ended in order."""


class Streams:
    """The open event streams of a process."""

    def __init__(
        self,
        encoder: Encoder,
        gauge: Gauge,
        *,
        first: float = FIRST_SECONDS,
        heartbeat: float = HEARTBEAT_SECONDS,
        write: float = WRITE_SECONDS,
    ) -> None:
        self._encoder = encoder
        self._gauge = gauge
        self._first = first
        self._heartbeat = heartbeat
        self._write = write
        self._formats: dict[str, EventFormat] = {}
        self._open: set[asyncio.Future[None]] = set()  # each is done when its stream is to be left
        self._is_draining = False

    def drain(self) -> None:
        """End all streams, in order: their clients connect again, elsewhere. New ones are refused."""
        self._is_draining = True
        for over in self._open:
            _finish(over)

    async def serve(self, call: Call, last_event_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the events of a call until it ends or the client leaves. Raises Problem when the call is refused."""
        if self._is_draining:
            raise Problem.of_reason(Reason.SHUTTING_DOWN, "this server is stopping; connect again", retry_after=1)
        name = call.route.rpc.full_name
        events = self._formats.get(name)
        if events is None:
            self._formats[name] = events = EventFormat(call.route, self._encoder)
        is_resumed = events.resume(call.request, last_event_id)

        over = asyncio.get_running_loop().create_future()
        gone = asyncio.ensure_future(_until_gone(receive))
        gone.add_done_callback(lambda _: _finish(over))
        self._open.add(over)
        self._gauge.inc()
        writer = _Writer(send, scope["state"].get("abort"), self._write)
        try:
            await self._relay(call, events, over, writer, is_resumed=is_resumed)
        except _Ended:
            # Only after a 204 an EventSource stays away.
            await (writer.end() if writer.has_started else Response(None, 204)(scope, receive, send))
        except _Left:
            await writer.end()
        except Problem as problem:
            if not writer.has_started:
                raise
            logger.info("a stream ended early: %s", problem.reason)
            await writer.end(end_of(problem, current_request_id()))
        finally:
            self._gauge.dec()
            self._open.discard(over)
            gone.cancel()

    async def _relay(
        self, call: Call, events: EventFormat, over: "asyncio.Future[None]", writer: "_Writer", *, is_resumed: bool
    ) -> None:
        """Write the call's messages. Raises _Ended, _Left, Problem."""
        try:
            with call.upstream.stream(call) as stream, _Messages(stream, over) as messages:
                message = await messages.next(self._first)
                await writer.write(RETRY if message is None else RETRY + events.frame(message))
                while True:
                    message = await messages.next(self._heartbeat)
                    await writer.write(HEARTBEAT if message is None else events.frame(message))
        except grpc.aio.AioRpcError as error:
            is_expired = error.code() is grpc.StatusCode.OUT_OF_RANGE
            if not (is_resumed and is_expired) or writer.has_started:
                raise Problem.of_call(error) from error
        # An EventSource that is refused never comes back. So it begins anew, with a snapshot.
        events.restart(call.request)
        await self._relay(call, events, over, writer, is_resumed=False)


class _Messages:
    """Reads a call's messages. A read that times out goes on: the next `next` waits for the same message."""

    def __init__(self, call: Any, over: "asyncio.Future[None]") -> None:
        self._call = call
        self._over = over
        self._read: asyncio.Future[Any] | None = None

    async def next(self, seconds: float) -> Message | None:
        """Return the next message; None: there was none within `seconds`. Raises _Ended, _Left, AioRpcError."""
        if self._read is None:
            self._read = asyncio.ensure_future(self._call.read())
        await asyncio.wait((self._read, self._over), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._over.done():
            raise _Left
        if not self._read.done():
            return None
        read, self._read = self._read, None
        if read.cancelled():  # the channel was closed
            raise _Left
        if read.result() is grpc.aio.EOF:
            raise _Ended
        message: Message = read.result()
        return message

    def __enter__(self) -> "_Messages":
        return self

    def __exit__(self, *_: object) -> None:
        if self._read is not None and not self._read.cancel() and not self._read.cancelled():
            self._read.exception()  # so that asyncio does not log it as never retrieved


class _Writer:
    """Writes an event stream to a client, and cuts it off when it does not read."""

    def __init__(self, send: Send, abort: Callable[[], None] | None, seconds: float) -> None:
        self._send = send
        self._abort = abort
        self._seconds = seconds
        self.has_started = False

    async def write(self, events: bytes) -> None:
        """Write events, after the headers. Raises _Left when the client makes no room for them."""
        if not self.has_started:
            self.has_started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await self._body(events, more=True)

    async def end(self, last: bytes = b"") -> None:
        """Write the end, if there was a beginning."""
        if self.has_started:
            with contextlib.suppress(_Left):
                await self._body(last, more=False)

    async def _body(self, content: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._send({"type": "http.response.body", "body": content, "more_body": more})
        except TimeoutError:
            logger.info("a client reads no events: it is cut off")
            if self._abort is not None:
                self._abort()
            raise _Left from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _finish(over: "asyncio.Future[None]") -> None:
    if not over.done():
        over.set_result(None)
