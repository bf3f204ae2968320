"""A runs-service process of its own, for tests of how it starts, serves and stops."""

import json
import os
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from devstack.ports import HOST, free_ports
from tests.support.forking import Forks
from tests.support.tokens import SECRET


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
