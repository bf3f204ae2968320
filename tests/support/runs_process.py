"""A runs-service process of its own, for tests of how it starts, serves and stops, and calls of it."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from devstack.ports import HOST, free_ports
from tests.support.forking import Forks
from tests.support.tokens import SECRET

UNKNOWN_RUN = "0198f0a0-0000-7000-8000-000000000000"


class Service:
    """A runs-service process, and where it listens."""

    def __init__(self, forks: Forks, log: Path, environment: dict[str, str]) -> None:
        self.port, self.metrics_port = free_ports(2)
        self.address = f"{HOST}:{self.port}"
        self.log = log
        settings = {
            "RUNS_LISTEN": self.address,
            "METRICS_LISTEN": f"{HOST}:{self.metrics_port}",
            "AUTH_JWT_SECRET": SECRET,
            "EXECUTOR_TARGET": f"{HOST}:1",  # nobody is there
            "LOG_LEVEL": "DEBUG",
            "PATH": os.environ["PATH"],
        }
        self.process = forks.run(log, env=settings | environment)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> None:
        self.process.kill()


async def serving(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def token(role: str = "OWNER") -> str:
    claims = {"sub": "u", "exp": datetime.now(UTC) + timedelta(hours=12), "projects": {"p": role}}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def metadata(role: str = "OWNER", **more: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token(role)}"), *more.items())


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error}"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "playbook-runs"
    return info


@asynccontextmanager
async def refused(code: grpc.StatusCode, reason: str) -> AsyncIterator[list[grpc.aio.AioRpcError]]:
    errors: list[grpc.aio.AioRpcError] = []
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        yield errors
    errors.append(failure.value)
    assert (failure.value.code(), info_of(failure.value).reason) == (code, reason)
