"""One service as a process of its own, with a token for it, and what it takes of memory."""

import asyncio
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import grpc
import psutil
import pytest

from devstack.ports import HOST, free_ports
from servicekit.health_probe import is_serving
from tests.support.forking import Forks
from tests.support.shop import Refusal, refusal
from tests.support.tokens import SECRET, hs256

START_TIMEOUT = 30.0  # seconds
SAMPLE = 0.02  # seconds between two looks at a process


class ServiceProcess:
    """A runs-service or executor-service process; use it with `with`."""

    def __init__(
        self, forks: Forks, kind: Literal["runs", "executor"], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.port, self.metrics_port = free_ports(2)
        self.target = f"{HOST}:{self.port}"
        self.log = log
        self._forks = forks
        self._environment = {
            f"{kind.upper()}_LISTEN": self.target,
            "METRICS_LISTEN": f"{HOST}:{self.metrics_port}",
            "AUTH_JWT_SECRET": SECRET,
            "EXECUTOR_TARGET": f"{HOST}:1",  # nobody is there
            "AI_PROVIDER": "offline",
            "LOG_LEVEL": "DEBUG",
            "PATH": os.environ["PATH"],
            **environment,
        }

    def __enter__(self) -> "ServiceProcess":
        self._process = self._forks.run(self.log, env=self._environment)
        until = time.monotonic() + START_TIMEOUT
        while not is_serving(self.target, 5.0):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, "it does not serve"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    @property
    def memory(self) -> int:
        """The resident memory in bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        """How long it has worked so far, on all its threads."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log, a line each; fails when there is anything else in it but gRPC's own lines."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    async def limits_reached(self, limit: str) -> float:
        """Return how often a limit refused something, as Prometheus reads it."""
        url = f"http://{HOST}:{self.metrics_port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=20).read().decode())
        found = re.search(rf'^limits_reached_total\{{limit="{limit}"\}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def tracebacks(self) -> int:
        """How many tracebacks the log has."""
        return self.log.read_text().count("Traceback (most recent call last)")


def token(project: str = "p", role: str = "OWNER", user: str = "u") -> str:
    return hs256(sub=user, projects={project: role})


def metadata(project: str = "p", role: str = "OWNER", user: str = "u") -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token(project, role, user)}"),)


@contextmanager
def memory_of(service: ServiceProcess) -> Iterator["Growth"]:
    """Measure how much a process grows within the block, at most."""
    growth = Growth(service)
    yield growth
    growth.sample()


class Growth:
    """How many bytes a process has grown by, at most, at the moments it was looked at."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service
        self._before = service.memory
        self.most = 0

    def sample(self) -> int:
        """Look now; return the growth since the beginning."""
        grown = self._service.memory - self._before
        self.most = max(self.most, grown)
        return grown


async def refused(call: Any) -> Refusal:
    """Return how a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)
