"""Telling services to stop, and seeing how they end."""

import asyncio
import signal
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.services import Service
from runs_client.errors import ServiceCallError
from tests.support.shop import refusal
from tests.support.waiting import eventually

LAST_STEPS = 2.0  # seconds a service may take beyond its grace time
LOADED = 2.0  # the machine may be busy with other things: the last steps may take so many times as long
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
