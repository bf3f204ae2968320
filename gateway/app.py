"""The composition root of the gateway: the only place that constructs things."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from playbooks.executor.v1 import catalog_service_pb2, executor_service_pb2
from playbooks.runs.v1 import runs_service_pb2
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from gateway.answers import Answers
from gateway.edge import Edge, Failures
from gateway.encoder import Encoder
from gateway.health import Health
from gateway.metrics import GatewayMetrics
from gateway.origins import OriginCheck, with_cors
from gateway.page_files import PageFiles
from gateway.routes import Routes
from gateway.server import HttpServer
from gateway.settings import GatewaySettings
from gateway.streams import Streams
from gateway.transcoder import Transcoder
from gateway.upstream import Upstream
from servicekit.background.tasks import LAST_STEPS, force_exit_after, stop_signal
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.tracing import tracing_by

logger = logging.getLogger(__name__)

NAME = "runs-gateway"
GRACE = 5.0  # seconds for answers under way at a stop; event streams end at once
OPENAPI: Final = Path(__file__).parent / "openapi.json"  # made by tools/gen.py
RUNS: Final = (runs_service_pb2.DESCRIPTOR.services_by_name["RunsService"],)
EXECUTOR: Final = (
    executor_service_pb2.DESCRIPTOR.services_by_name["ExecutorService"],
    catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"],
)


async def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SystemExit when the port is taken."""
    async with serving(settings):
        await stop_signal()
        logger.info("stopping")
        force_exit_after(GRACE + LAST_STEPS)


@asynccontextmanager
async def serving(settings: GatewaySettings) -> AsyncIterator[HttpServer]:
    """Enter a running gateway. At the end it ends its event streams, and lets the answers under way end."""
    metrics = Metrics.at(settings.metrics_listen)

    async with tracing_by(settings, service=NAME) as tracing, AsyncExitStack() as stack:
        runs = Upstream("runs-service", settings.runs_target, settings)
        executor = Upstream("executor-service", settings.executor_target, settings)
        for upstream in (runs, executor):
            stack.push_async_callback(upstream.close)

        encoder = Encoder()
        of_gateway = GatewayMetrics(metrics)
        streams = Streams(encoder, of_gateway.streams)
        routes = Routes([*RUNS, *EXECUTOR], at_root=settings.gateway_routes_at_root)
        transcoder = Transcoder(
            routes,
            {**{one.full_name: runs for one in RUNS}, **{one.full_name: executor for one in EXECUTOR}},
            Answers(routes, encoder),
            streams,
            max_body_bytes=settings.gateway_max_body_bytes,
            call_seconds=settings.gateway_call_seconds,
            body_seconds=settings.max_receive_seconds,
        )
        health = Health([runs, executor])
        by_hand = [
            *PageFiles(trace_url=settings.trace_url or "").routes,
            Route("/healthz", health.alive),
            Route("/readyz", health.ready),
            Route("/openapi.json", _description),
        ]
        router = Router(by_hand, redirect_slashes=False, default=transcoder)
        failures = Failures(OriginCheck(router, settings.origins))
        paths = [route.path for route in by_hand]
        edge = Edge(with_cors(failures, settings.origins), of_gateway, paths, tracing)
        server = HttpServer(edge, settings, grace=GRACE)
        await server.start()
        stack.push_async_callback(server.stop)
        stack.callback(streams.drain)
        yield server
        health.is_stopping = True


async def _description(_request: Request) -> Response:
    return Response(OPENAPI.read_bytes(), media_type="application/json", headers={"cache-control": "no-cache"})
