"""Telling services to stop, and seeing how they end."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.services import Service
from devstack.stack import Stack
from runs_client.errors import ServiceCallError
from tests.support.shop import Shop, refusal
from tests.support.waiting import eventually

LAST_STEPS = 2.0  # seconds a service may take beyond its grace time
LOADED = 2.0  # the machine may be busy with other things: the last steps may take so many times as long
PATIENT_AI = {"AI_TIMEOUT_SECONDS": "60"}  # no request is given up for being slow
# A connection of its own, and nothing that is sent again: each call tells what became of it.
BARE = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def tell_to_stop(service: Service) -> None:
    service.send_signal(signal.SIGTERM)


async def stopped(service: Service, *, grace: float) -> float:
    """Tell it to stop and wait until it has ended, within its grace time and with exit code 0; return the seconds."""
    started = time.monotonic()
    tell_to_stop(service)
    await ended(service, grace=grace)
    return time.monotonic() - started


async def ended(service: Service, *, grace: float) -> None:
    """Wait until a service that got a signal to stop has ended, within its grace time and with exit code 0."""
    await eventually(lambda: service.died, timeout=grace + LAST_STEPS * LOADED)
    notice = service.death_notice()
    assert "ended with exit code 0;" in notice, notice
    assert "Traceback" not in service.log.read_text(), notice


async def restarted(service: Service) -> None:
    """Start a service that has ended."""
    service.kill()
    service.start()
    await asyncio.to_thread(service.wait_ready)


async def not_serving(channel: grpc.aio.Channel, name: str) -> bool:
    request = health_pb2.HealthCheckRequest(service=name)
    return bool((await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)).status == NOT_SERVING)


def retry_seconds(error: grpc.aio.AioRpcError) -> float | None:
    """Return after how many seconds an error says to come again, if it does."""
    return ServiceCallError.from_call(error).retry_after


def assert_shutting_down(error: grpc.aio.AioRpcError) -> None:
    found = refusal(error)
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN"), error
    assert retry_seconds(error) == 1.0


async def opened(shop: Shop) -> Shop:
    """Return the shop once its channels have found everybody again."""
    await eventually(lambda: attempt(shop.open()))
    for number in range(len(shop.stack.runs)):
        await eventually(lambda: attempt(shop.runs(number).ListRuns(listing_of(shop), **shop.auth())))  # noqa: B023
    return shop


async def attempt(call: Any) -> bool:
    """Return whether a call succeeded; it may fail with UNAVAILABLE only."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


def listing_of(shop: Shop) -> pb.ListRunsRequest:
    return pb.ListRunsRequest(project_id=shop.project)


@contextmanager
def locked(stack: Stack, table: str) -> Iterator[None]:
    """Let nobody read or write a table within the block, so that calls that need it are under way."""
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        database.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
        database.rollback()


def waiting_for(stack: Stack, table: str) -> int:
    """Return how many statements wait for a locked table."""
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = CAST(%s AS regclass)"
        row = database.execute(query, [table]).fetchone()
        return int(row[0]) if row else 0


TABLES = {"runs": "runs.runs", "executor": "executor.products"}


def read(shop: Shop, service: Service, channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryCall[Any, Any]:
    """Call a method that needs a table."""
    if service.kind == "runs":
        return RunsServiceStub(channel).ListRuns(listing_of(shop), **shop.auth())
    products = catalog.ListProductsRequest(project_id=shop.project)
    return CatalogServiceStub(channel).ListProducts(products, **shop.auth())
