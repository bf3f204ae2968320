"""One HTTP connection, with limits on the memory and time that an unauthenticated client can take."""

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.problems import Problem

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits of a connection, and on their number."""

    connections: int
    head_seconds: float  # from the first byte of a request, or the connection's start, to the end of its headers
    head_bytes: int = 64 * 1024  # a token has at most 32 kB


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with limits: headers have a time limit and a size limit, a client that does not read is
    disconnected, and bytes that are not HTTP are not logged."""

    def __init__(self, *arguments: Any, limits: ConnectionLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.access_log = False  # uvicorn's has paths and queries, and is on wherever a handler is found
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_in_head = False
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "TOO_MANY_CALLS", "too many connections; try again")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers."""
        self._end_head()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived."""
        if self.parser is None or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            logger.debug("a client asked for another protocol, and is answered in this one")
        except httptools.HttpParserError:
            if self._head_bytes > self._limits.head_bytes:
                status, reason = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "HEADERS_TOO_LARGE"
                self._refuse(status, reason, f"the headers have more than {self._limits.head_bytes:,} bytes")
            else:
                self._refuse(HTTPStatus.BAD_REQUEST, "VALIDATION_FAILED", "this is no HTTP request")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = 0
        self.scope["state"]["abort"] = self.transport.abort

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to serve the request."""
        self._is_in_head = False
        self._end_head()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request: some of it may be here already."""
        super().on_response_complete()
        if self._is_in_head and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._await_head()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; abort it if its client does not read the answer."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            super().timeout_keep_alive_handler()
        elif unsent == self._unsent:
            self.transport.abort()
        else:
            self._unsent = unsent
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _count(self, *parts: bytes) -> None:
        self._head_bytes += sum(map(len, parts))
        if self._head_bytes > self._limits.head_bytes:
            raise ValueError("too many bytes of headers")  # reaches `data_received` as an HttpParserError

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        message = f"the headers did not arrive within {self._limits.head_seconds:g} s"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, "REQUEST_TIMEOUT", message)

    def _refuse(self, status: HTTPStatus, reason: str, message: str) -> None:
        """Answer what is no request yet, and close."""
        self._end_head()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            response = Problem(status, reason, message, headers={"connection": "close"}).response("")
            headers = b"".join(b"%b: %b\r\n" % pair for pair in response.raw_headers)
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
            self.transport.write(b"%b%b\r\n%b" % (line, headers, bytes(response.body)))
        self.transport.close()
