"""The HTTP server: uvicorn beside our own life cycle."""

import asyncio
import contextlib
import functools
import logging
import resource
import socket
import ssl
from collections.abc import Generator
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from gateway.certificates import RenewableContext
from gateway.connection import Connection, ConnectionLimits
from gateway.settings import GatewaySettings
from servicekit.background.tasks import freeze_gc
from servicekit.rpc.bind_errors import explain_bind_error
from servicekit.rpc.credentials import TlsFiles

logger = logging.getLogger(__name__)

KEEP_ALIVE = 75  # seconds; longer than proxies keep a connection (60), so that none closes under a request of theirs
BACKLOG = 2_048


class _Embedded(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = asyncio.Event()
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that connections are accepted."""
        await super().startup(sockets)
        self.serves.set()

    async def main_loop(self) -> None:
        """Keep the date header right and the certificates new until the stop: once a second, for uvicorn's own ten
        times keep an idle machine busy."""
        while not await self.on_tick(0):
            if isinstance(self.config.ssl, RenewableContext):
                self.config.ssl.renew()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stopping.wait()

    def end(self) -> None:
        """Let `serve` return, once the answers under way have ended."""
        self.should_exit = True
        self._stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to servicekit.background.tasks."""
        yield


class HttpServer:
    """Serves `app` at the address of the settings. Raises SystemExit when that is impossible."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, *, grace: float) -> None:
        self._socket = _bind(settings)
        host, port = settings.listen.rpartition(":")[0], self._socket.getsockname()[1]
        self.scheme = "https" if settings.tls_cert_file else "http"
        self.address = f"{host}:{port}"
        limits = ConnectionLimits(settings.max_connections, head_seconds=settings.max_receive_seconds)
        config = uvicorn.Config(
            app,
            http=cast(Any, functools.partial(Connection, limits=limits)),
            ws="none",
            loop="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=cast(int, grace),
            ssl_certfile=settings.tls_cert_file,
            ssl_keyfile=settings.tls_key_file,
            ssl_ca_certs=str(settings.tls_client_ca_file) if settings.tls_client_ca_file else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if settings.tls_client_ca_file else ssl.CERT_NONE,
            ssl_context_factory=(lambda _, make: RenewableContext(TlsFiles(settings), make))
            if settings.tls_cert_file
            else None,
        )
        self._server = _Embedded(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections."""
        _allow_open_files()
        freeze_gc()
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="http")
        await self._server.serves.wait()
        logger.info("serving at %s://%s", self.scheme, self.address)

    async def stop(self) -> None:
        """Accept no more connections, let the answers under way end within the grace time, and close."""
        task, self._task = self._task, None
        if task is not None:
            self._server.end()
            await task


def _bind(settings: GatewaySettings) -> socket.socket:
    host, _, port = settings.listen.rpartition(":")
    try:
        family, kind, protocol, _, endpoint = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as opened:
            bound = opened.enter_context(socket.socket(family, kind, protocol))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if settings.processes > 1:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bound.bind(endpoint)
            bound.listen(BACKLOG)  # so that a taken port shows here
            bound.setblocking(False)
            opened.pop_all()
            return bound
    except (OSError, UnicodeError) as error:
        where = f"{settings.listen} ({settings.listen_variable})"
        raise SystemExit(f"cannot listen on {where}: {explain_bind_error(settings.listen)}") from error


def _allow_open_files() -> None:
    """Let this process open as many files as the system lets it: each connection is one, and shells say 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
