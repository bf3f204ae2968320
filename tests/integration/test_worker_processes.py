"""EXECUTOR_WORKERS and RUNS_WORKERS: several processes of a service at one port."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest

from devstack.ports import HOST, free_ports, is_free, reserve
from servicekit.health_probe import is_serving
from tests.support.forking import Forked, Forks
from tests.support.metrics import scrape
from tests.support.waiting import eventually

DEADLINE = 30  # seconds


@pytest.fixture
def environment(executor_database: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("EXECUTOR_", "AI_", "OPENAI_"))},
        "EXECUTOR_DATABASE_URL": executor_database,
        "EXECUTOR_LISTEN": f"{HOST}:{free_ports(1)[0]}",
        "EXECUTOR_WORKERS": "2",
        "METRICS_LISTEN": f"{HOST}:{two_ports()}",
        "EXECUTOR_GRACE_SECONDS": "0.1",
        "AUTH_MODE": "disabled",
    }


def two_ports() -> int:
    """Return a port that is free, and so is the next one."""
    while True:
        (port,) = free_ports(1)
        if is_free(port + 1) and reserve(port + 1):
            return port


async def probes(environment: dict[str, str]) -> list[float]:
    """Return how many health checks each process has counted: its metrics are at a port of its own."""
    port = int(environment["METRICS_LISTEN"].rpartition(":")[2])
    check = {"method": "/grpc.health.v1.Health/Check", "code": "OK"}
    return [(await scrape(port + n)).value("grpc_server_calls_total", **check) for n in range(2)]


Started: TypeAlias = Callable[[dict[str, str]], AbstractContextManager[Forked]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "executor.log"


@pytest.fixture
def started(executor_forks: Forks, log: Path) -> Started:
    @contextmanager
    def started(environment: dict[str, str]) -> Iterator[Forked]:
        process = executor_forks.run(log, env=environment)
        try:
            yield process
        finally:
            process.kill()

    return started


def size(log: Path) -> int:
    return len(log.read_text())


def workers(process: Forked) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def serving(environment: dict[str, str], process: Forked) -> bool:
    """Return whether every worker listens, and the one that gets the connection answers."""
    listening = sum(
        any(connection.status == psutil.CONN_LISTEN for connection in worker.net_connections("tcp"))
        for worker in workers(process)
    )
    return listening == 2 and is_serving(environment["EXECUTOR_LISTEN"], DEADLINE)


async def test_all_processes_serve_a_dead_one_is_replaced_and_all_stop_together(
    started: Started, log: Path, environment: dict[str, str]
) -> None:
    with started(environment) as process:
        await eventually(lambda: serving(environment, process))
        victim, other = workers(process)
        old_enough = victim.create_time() + 5  # what dies within 3 s of its start is not replaced
        await eventually(lambda: time.time() > old_enough)
        victim.kill()
        await eventually(lambda: victim not in workers(process) and serving(environment, process))
        assert other in workers(process)
        before = await probes(environment)  # also of the one that took the dead one's place, and its port
        for _ in range(6):
            assert is_serving(environment["EXECUTOR_LISTEN"], DEADLINE)
        after = await probes(environment)
        assert sum(after) - sum(before) == 6
        family = [*workers(process), other]
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
        assert not any(member.is_running() for member in family)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_signal_changes_the_level_of_all_processes_and_back(
    count: int, started: Started, log: Path, environment: dict[str, str]
) -> None:
    writers = 1 if count == 1 else 1 + count  # with the first process, which starts others in the place of dead ones
    with started(environment | {"EXECUTOR_WORKERS": str(count)}) as process:
        await eventually(lambda: log.read_text().count("serving at") == count)
        for level in ("DEBUG", "INFO", "DEBUG"):
            before = size(log)
            process.send_signal(signal.SIGUSR1)

            def is_changed(words: str = f"level is {level} now", before: int = before) -> bool:
                return log.read_text()[before:].count(words) == writers

            await eventually(is_changed)
        assert is_serving(environment["EXECUTOR_LISTEN"], DEADLINE)
        await eventually(lambda: "Health/Check OK" in log.read_text()[before:])


async def test_no_worker_outlives_a_parent_that_is_killed(
    started: Started, log: Path, environment: dict[str, str]
) -> None:
    with started(environment) as process:
        await eventually(lambda: serving(environment, process))
        family = workers(process)
        process.kill()
        await eventually(lambda: not any(member.is_running() for member in family))


def test_workers_that_cannot_start_end_the_service_with_an_error(
    started: Started, log: Path, environment: dict[str, str]
) -> None:
    with started(environment | {"AI_PROVIDER": "openai", "OPENAI_API_KEY": ""}) as process:
        assert process.wait(DEADLINE) == 1
    errors = log.read_text()
    assert "OPENAI_API_KEY" in errors
    assert "Traceback" not in errors


def test_a_port_that_somebody_listens_at_is_not_shared(
    started: Started, log: Path, environment: dict[str, str]
) -> None:
    host, _, port = environment["EXECUTOR_LISTEN"].rpartition(":")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((host, int(port)))
        taken.listen()
        with started(environment) as process:
            assert process.wait(DEADLINE) == 1
    errors = log.read_text()
    assert f"cannot listen on {environment['EXECUTOR_LISTEN']}" in errors


def test_several_workers_need_a_port_of_their_own(started: Started, log: Path, environment: dict[str, str]) -> None:
    with started(environment | {"EXECUTOR_LISTEN": f"{HOST}:0"}) as process:
        assert process.wait(DEADLINE) == 2
    errors = log.read_text()
    assert "several processes need one port" in errors
