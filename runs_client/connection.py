"""One channel to one service, and what all calls over it share."""

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc

from runs_client.errors import ServiceCallError

# A JWT, or a function that returns one, which may be a coroutine function; "": none.
Token = str | Callable[[], str | Awaitable[str]]
Metadata = tuple[tuple[str, str], ...]

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
TIMEOUT = 30.0  # seconds, of a call that does not wait for a run
CLOSED = "the client is closed"

# Calls that may be sent twice without harm. Those that make a run carry a request_id, which makes the second return the
# first one's run; a run has one retry. Watches resume by themselves. PurgeProject says what it deleted, and the second
# would not say what the first one did.
_RETRIED = {
    "playbooks.runs.v1.RunsService": (
        *("CreateRun", "GetRun", "ListRuns", "CancelRun", "RetryRun"),
        *("PreviewPlaybook", "ApplyPlaybook", "GetUsage"),
    ),
    "playbooks.executor.v1.CatalogService": (
        "PutProject",
        "GetProject",
        "PutProducts",
        "ListProducts",
        "DeleteProducts",
    ),
    "playbooks.executor.v1.ExecutorService": ("EstimatePlaybook", "GetDraft", "GetLatestDraft", "ListRunItems"),
}
_SERVICE_CONFIG = json.dumps(
    {
        # Calls are spread over the replicas that the target names, without those that are stopping.
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [
                    {"service": service, "method": method}
                    for service, methods in _RETRIED.items()
                    for method in methods
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)
_OPTIONS = (
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    # Both: gRPC ignores the first, documented one and waits for a minute (grpc#39239).
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Connection:
    """A channel to `target` (HOST:PORT); make it in a running event loop, and `close` it.

    `token` is the JWT to send with each call, or a function that returns it, which is asked before each call; "" for
    none. `ca_file` has the PEM certificates to trust and turns TLS
    on; `cert_file` and `key_file`, which go together and turn it on too, are the client's own certificate for a service
    that wants one. `timeout` is in seconds. With `http_proxy` calls go through the proxy of the environment, which is
    meant for the Web, and which gRPC would use for loopback too. Raises ServiceCallError for a token that no call can
    carry.
    """

    def __init__(
        self,
        target: str,
        *,
        token: Token = "",
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        timeout: float = TIMEOUT,
        http_proxy: bool = False,
    ) -> None:
        if isinstance(token, str):
            _require_sendable(token, target)
        self.target = target
        self._token = token
        self._timeout = timeout
        self._closed = asyncio.Event()
        self._streams: set[Any] = set()  # calls that are open
        options = (*_OPTIONS, ("grpc.enable_http_proxy", int(http_proxy)))
        if bool(cert_file) != bool(key_file):
            raise ValueError("cert_file and key_file go together: give both, or none")
        if ca_file or cert_file:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=ca_file.read_bytes() if ca_file else None,
                private_key=key_file.read_bytes() if key_file else None,
                certificate_chain=cert_file.read_bytes() if cert_file else None,
            )
            self.channel = grpc.aio.secure_channel(target, credentials, options=options)
        else:
            self.channel = grpc.aio.insecure_channel(target, options=options)

    async def metadata(self) -> Metadata:
        """Return what to send with a call made now.

        Raises ServiceCallError for a token that no call can carry, and what the function that returns tokens raises.
        """
        token = self._token if isinstance(self._token, str) else self._token()
        if inspect.isawaitable(token):
            token = await token
        _require_sendable(token, self.target)
        return (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self) -> None:
        """Close the channel and end its calls, with RuntimeError."""
        self._closed.set()
        for call in list(self._streams):  # gRPC looks for those under way, and does not find them within generators
            call.cancel()
        await self.channel.close()

    @contextmanager
    def stream(self, method: Callable[..., Any], request: object, metadata: Metadata) -> Iterator[Any]:
        """Open a call whose answer is a stream; it is cancelled at the end of the block."""
        with self._until_closed():
            call = method(request, metadata=metadata)
            self._streams.add(call)
            try:
                yield call
            finally:
                self._streams.discard(call)
                call.cancel()

    async def pause(self, seconds: float) -> None:
        """Wait so long. Raises RuntimeError when the connection is closed meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
                raise RuntimeError(CLOSED)

    async def unary(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # gRPC's, which the server gets too
    ) -> Response:
        """Make one call; raise ServiceCallError when it fails or takes longer than `timeout` seconds."""
        response, _ = await self.unary_with_trailing(method, request, timeout=timeout)
        return response

    async def unary_with_trailing(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> tuple[Response, dict[str, str]]:
        """Make one call as `unary` does; return the response and the text metadata that came after it."""
        metadata = await self.metadata()
        with self._until_closed():
            call = method(request, metadata=metadata, timeout=timeout or self._timeout)
            try:
                response = await call
                trailing = await call.trailing_metadata()
                return response, {name: value for name, value in trailing or () if isinstance(value, str)}
            except grpc.aio.AioRpcError as error:
                raise ServiceCallError.from_call(error, self.target) from error

    @contextmanager
    def _until_closed(self) -> Iterator[None]:
        """Raise RuntimeError when the connection is closed, before the block or within it.

        gRPC would raise CancelledError in a task that nobody has cancelled.
        """
        if self._closed.is_set():
            raise RuntimeError(CLOSED)
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._closed.is_set() or (task and task.cancelling()):
                raise
            raise RuntimeError(CLOSED) from None


def _require_sendable(token: str, target: str) -> None:
    """Refuse what gRPC cannot put into a header: it ends the call with an error that says nothing."""
    if not (token.isascii() and token.isprintable()):
        raise ServiceCallError(
            grpc.StatusCode.UNAUTHENTICATED,
            "TOKEN_INVALID",
            "the token has a line break or a character that no JWT has: it is one line of letters, digits, - _ and .",
            target=target,
        )
