"""The gRPC server: our services, health checks and reflection, with admission, interceptors and TLS."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from servicekit.auth.keys import PublicKeyFile
from servicekit.auth.principals import Authenticator, NoAuthentication
from servicekit.auth.tokens import TokenAuthenticator
from servicekit.background.tasks import freeze_gc
from servicekit.config.settings import ServiceSettings
from servicekit.rpc import reflection
from servicekit.rpc.admission import Admission, OpenAdmission
from servicekit.rpc.bind_errors import explain_bind_error
from servicekit.rpc.credentials import TlsFiles
from servicekit.rpc.grpc_41785 import shutdown_connections
from servicekit.rpc.interceptors.access_log import AccessLog
from servicekit.rpc.interceptors.authorization import Authorization, Permissions
from servicekit.rpc.interceptors.decoding import Decoding
from servicekit.rpc.interceptors.draining import Draining
from servicekit.rpc.interceptors.errors import ErrorTranslation
from servicekit.rpc.interceptors.request_ids import RequestIds
from servicekit.rpc.interceptors.subjects import Subjects
from servicekit.rpc.interceptors.token_expiry import TokenExpiry
from servicekit.rpc.interceptors.traced import Traced
from servicekit.rpc.interceptors.unknown_methods import unknown_method
from servicekit.rpc.interceptors.validation import RequestRules, Validation
from servicekit.rpc.options import MAX_RESPONSE_BYTES, ping_timeout
from servicekit.rpc.readiness import Check, Readiness, Refusal
from servicekit.rpc.services import InterceptedServices
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.outages import Outage
from servicekit.telemetry.tracing import OFF, Tracing

logger = logging.getLogger(__name__)

# A health check or reflection request is a name. Health watchers keep theirs in memory for as long as they watch.
OPEN_REQUEST_BYTES = 4_096
FLUSH_DELAY = 0.1  # seconds in which gRPC writes the last answers; it does not report when it has
OPTIONS = (
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    # Finds watchers whose machine has vanished, and keeps idle load balancers from closing their connections.
    ("grpc.keepalive_time_ms", 60_000),
    *ping_timeout(20),
    # gRPC closes the connection of a caller that pings more often. The executor's callers ping every 5 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True)
class Registration:
    """A servicer, its full name, and the generated function that adds it to a server."""

    name: str
    servicer: Any
    add: Callable[[Any, Any], None]


class Server:
    """A gRPC server of `registrations`. `permissions` say which role each method needs; `check` says what keeps the
    service from its work, for health checks and for calls; `parts` have health checks of their own and no more;
    `rules` are those of requests that their protos do not say; `tracing` records calls of them."""

    def __init__(
        self,
        settings: ServiceSettings,
        registrations: Sequence[Registration],
        permissions: Permissions,
        metrics: Metrics,
        *,
        check: Check | None = None,
        parts: Mapping[str, Sequence[Outage]] | None = None,
        rules: RequestRules | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._names = [registration.name for registration in registrations]
        self._draining = Draining()
        self._readiness = (
            Readiness(check, self._report, parts=parts or {}, on_part=self._report_part) if check else None
        )
        refusal = [Refusal(self._readiness)] if self._readiness else []
        outer = [AccessLog(metrics), ErrorTranslation()]
        traced = [Traced(tracing)] if tracing.is_on else []

        services = InterceptedServices(
            [RequestIds(), *traced, *outer],
            [
                *(self._draining, TokenExpiry(), *refusal, Decoding()),
                *(Authorization(permissions), Validation(rules or {}), Subjects()),
            ],
            admission=Admission(_authenticator(settings), settings.limits, metrics),
        )
        for registration in registrations:
            registration.add(registration.servicer, services)

        # Open to everyone, with limits of their own: anonymous callers cannot use up those of authenticated ones.
        open_services = InterceptedServices(
            [RequestIds(), *outer],
            [Decoding(OPEN_REQUEST_BYTES)],
            admission=OpenAdmission(settings.limits, metrics),
            unknown=unknown_method,
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, open_services)
        if settings.reflection:
            reflection.enable([*self._names, health.SERVICE_NAME], open_services)

        self._server = grpc.aio.server(
            # With one process SO_REUSEPORT stays off: a taken port must be an error, and not a share of its traffic.
            options=[*OPTIONS, *settings.limits.options(), ("grpc.so_reuseport", int(settings.processes > 1))],
        )
        # gRPC asks them in this order at every call. The last one refuses unknown methods.
        self._server.add_generic_rpc_handlers([services, open_services])
        self._port = self._bind(settings)
        self.address = f"{settings.listen.rpartition(':')[0]}:{self._port}"

    async def start(self) -> None:
        """Accept calls, and report to health checks: SERVING while there is nothing that keeps us from our work."""
        freeze_gc()
        if self._readiness:
            await self._readiness.tick()
        else:
            await self._report(True)
        await self._server.start()
        if self._readiness:
            await self._readiness.start()
        logger.info("serving at %s", self.address)

    async def drain(self) -> None:
        """Refuse new calls from now on, and report NOT_SERVING to health checks. Reflection and health go on."""
        self._draining.close()
        if self._readiness:
            await self._readiness.stop()
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give those in flight `grace` seconds, abort the rest, and close all connections."""
        await self.drain()
        await self._draining.finish(grace)
        await asyncio.sleep(FLUSH_DELAY)
        shutdown_connections(self._port)
        await self._server.stop(None)

    async def _report(self, is_ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for name in ("", *self._names):
            await self._health.set(name, status.SERVING if is_ready else status.NOT_SERVING)

    async def _report_part(self, name: str, is_there: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self._health.set(name, status.SERVING if is_there else status.NOT_SERVING)

    def _bind(self, settings: ServiceSettings) -> int:
        """Bind the server to `settings.listen`, and return the port. Raises SystemExit when that is impossible."""
        try:
            if credentials := TlsFiles(settings).of_server():
                return self._server.add_secure_port(settings.listen, credentials)
            return self._server.add_insecure_port(settings.listen)
        except RuntimeError as error:
            where = f"{settings.listen} ({settings.listen_variable})"
            raise SystemExit(f"cannot listen on {where}: {explain_bind_error(settings.listen)}") from error


def _authenticator(settings: ServiceSettings) -> Authenticator:
    if settings.auth_mode == "disabled":
        return NoAuthentication()
    file = settings.auth_jwt_public_key_file
    return TokenAuthenticator(settings.jwt_secrets, PublicKeyFile(file) if file else None, settings.token_demands)
