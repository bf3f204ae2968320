"""What the clients of both services share: a connection that is open while they are used, and stubs on it."""

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from runs_client.connection import TIMEOUT, Connection, Token
from runs_client.errors import ServiceCallError

HEALTH_TIMEOUT = 3.0  # seconds


class ServiceClient(ABC):
    """A client of one service at `target` (HOST:PORT); use it with `async with`, in a running event loop.

    `token` is the JWT to send with each call, or a function (a coroutine function, too) that returns it: it is asked
    before each call, so it should keep a token until shortly before that expires. `ca_file` has the PEM certificates to
    trust and turns TLS on; `cert_file` and `key_file` are the client's own certificate under mutual TLS; `timeout` is
    that of a call, in seconds; `http_proxy` sends calls through the environment's proxy.

    A method whose call fails raises ServiceCallError. Its docstring names the reasons that are its own; any call may
    fail with VALIDATION_FAILED, TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID, PROJECT_ACCESS_DENIED, ROLE_TOO_LOW,
    TOO_MANY_CALLS, DATABASE_UNAVAILABLE, SCHEMA_MISMATCH, SHUTTING_DOWN, METHOD_UNKNOWN or INTERNAL_ERROR,
    and without a reason when no service answers.
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
        self._connection = Connection(
            target,
            token=token,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            timeout=timeout,
            http_proxy=http_proxy,
        )
        self._make_stubs(self._connection.channel)

    @abstractmethod
    def _make_stubs(self, channel: grpc.aio.Channel) -> None:
        """Make what the methods call."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def target(self) -> str:
        """The address of the service."""
        return self._connection.target

    async def require_serving(self, part: str = "") -> None:
        """Return when the service, or a `part` of it ("broker"), says over grpc.health.v1 that it serves.

        Raises ServiceCallError, with NOT_FOUND for a part that it does not have.
        """
        check = HealthStub(self._connection.channel).Check
        answer = await self._connection.unary(check, HealthCheckRequest(service=part), timeout=HEALTH_TIMEOUT)
        if answer.status != HealthCheckResponse.SERVING:
            name = HealthCheckResponse.ServingStatus.Name(answer.status)
            raise ServiceCallError(grpc.StatusCode.UNAVAILABLE, "", f"it says {name}", target=self.target)

    async def close(self) -> None:
        """Close the connection and end its calls, with RuntimeError."""
        await self._connection.close()
