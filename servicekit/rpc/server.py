"""The gRPC server: health, reflection, TLS, and the interceptors in their order."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from servicekit.auth.keys import PublicKeyFile
from servicekit.auth.principals import Authenticator, NoAuthentication
from servicekit.auth.tokens import TokenAuthenticator
from servicekit.background.tasks import settle
from servicekit.config.settings import ServiceSettings
from servicekit.rpc import reflection
from servicekit.rpc.admission import Admission, OpenAdmission
from servicekit.rpc.interceptors.access_log import AccessLog
from servicekit.rpc.interceptors.authorization import Authorization, Permissions
from servicekit.rpc.interceptors.decoding import Decoding
from servicekit.rpc.interceptors.draining import Draining
from servicekit.rpc.interceptors.errors import ErrorTranslation
from servicekit.rpc.interceptors.request_ids import RequestIds
from servicekit.rpc.interceptors.token_expiry import TokenExpiry
from servicekit.rpc.interceptors.unknown_methods import refusal
from servicekit.rpc.interceptors.validation import Validation
from servicekit.rpc.services import InterceptedServices
from servicekit.rpc.sockets import hang_up, obstacle
from servicekit.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

LAST_WORDS = 0.1  # seconds until gRPC has written what we gave it last; it does not tell
MAX_RESPONSE_BYTES = 16 * 1024 * 1024
OPEN_REQUEST_BYTES = 4_096  # of requests to health and reflection: a name; watchers of health hold theirs for long


def ping_timeout(seconds: int) -> tuple[tuple[str, int], ...]:
    """Return the gRPC options that give the other side `seconds` to answer a ping before it counts as gone.

    gRPC waits for a minute whatever its documented option says (grpc#39239), and by the second as long as is said.
    """
    return ("grpc.keepalive_timeout_ms", seconds * 1000), ("grpc.http2.ping_timeout_ms", seconds * 1000)


OPTIONS = (
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    # Finds watchers whose machine has vanished, and lets clients ping through idle load balancers.
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


def authenticator(settings: ServiceSettings) -> Authenticator:
    """Return the authenticator that `settings` ask for."""
    if settings.auth_mode == "disabled":
        return NoAuthentication()
    file = settings.auth_jwt_public_key_file
    return TokenAuthenticator(settings.jwt_secrets, PublicKeyFile(file) if file else None, settings.token_demands)


class Server:
    """A gRPC server for `registrations`, open to whom `permissions` allow, as `settings` say."""

    def __init__(
        self,
        settings: ServiceSettings,
        registrations: Sequence[Registration],
        permissions: Permissions,
        metrics: Metrics,
    ) -> None:
        self._names = [registration.name for registration in registrations]
        self._calls = Draining()
        self._server = grpc.aio.server(
            # One process: a taken port must be an error, not a share of somebody's traffic.
            options=[*OPTIONS, *settings.limits.options(), ("grpc.so_reuseport", int(settings.workers > 1))],
        )
        answering = [RequestIds(), AccessLog(metrics), ErrorTranslation()]
        # Health and reflection are open to everyone, and have limits of their own: strangers keep no caller out.
        open_services = InterceptedServices(
            answering,
            [Decoding(OPEN_REQUEST_BYTES)],
            admission=OpenAdmission(settings.limits, metrics),
            unknown=refusal,
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, open_services)
        if settings.reflection:
            reflection.enable([*self._names, health.SERVICE_NAME], open_services)
        services = InterceptedServices(
            answering,
            [self._calls, TokenExpiry(), Decoding(), Authorization(permissions), Validation()],
            admission=Admission(authenticator(settings), settings.limits, metrics),
        )
        for registration in registrations:
            registration.add(registration.servicer, services)
        # gRPC asks them in this order, at every call. The last one refuses what neither has.
        self._server.add_generic_rpc_handlers([services, open_services])
        self._port = self._bind(settings)
        self.address = f"{settings.listen.rpartition(':')[0]}:{self._port}"

    async def start(self) -> None:
        """Accept calls and say so to health checks."""
        settle()
        await self._server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        logger.info("serving at %s", self.address)

    async def drain(self) -> None:
        """Refuse new calls from now on, and tell health checks so. Reflection and health go on."""
        self._calls.close()
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give those under way `grace` seconds, tell the rest to come again, and hang up."""
        await self.drain()
        await self._calls.finish(grace)
        await asyncio.sleep(LAST_WORDS)
        hang_up(self._port)
        await self._server.stop(None)

    def _bind(self, settings: ServiceSettings) -> int:
        try:
            if settings.tls_cert_file and settings.tls_key_file:
                client_ca = settings.tls_client_ca_file
                credentials = grpc.ssl_server_credentials(
                    [(settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes())],
                    root_certificates=client_ca.read_bytes() if client_ca else None,
                    require_client_auth=client_ca is not None,
                )
                return self._server.add_secure_port(settings.listen, credentials)
            return self._server.add_insecure_port(settings.listen)
        except RuntimeError as error:
            where = f"{settings.listen} ({settings.listen_variable})"
            raise SystemExit(f"cannot listen on {where}: {obstacle(settings.listen)}") from error
