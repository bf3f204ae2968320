"""Pools of connections: callers and long work may use all of theirs, and runs and leases go on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as pb
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.executor.v1.job_pb2 import RunEvent, RunJob
from playbooks.runs.v1.run_pb2 import Run

from executor_service.domain.execution import Job
from executor_service.settings import LEASE_CONNECTIONS
from tests.integration.test_executor_process import DEADLINE, environment, log, openai  # noqa: F401  # fixtures
from tests.support.executor import Bench, job
from tests.support.forking import Forked, Forks
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("environment")
LEASE = 3.0  # seconds; longer than a busy machine may keep a heartbeat waiting


class Running:
    """A running executor-service, and what is on its database."""

    def __init__(self, channel: grpc.aio.Channel, bench: Bench, process: Forked) -> None:
        self.executor = ExecutorServiceStub(channel)
        self.catalog = CatalogServiceStub(channel)
        self.bench = bench
        self.process = process

    async def execute(self, job: Job) -> list[RunEvent]:
        """Execute a run; return its events."""
        request = pb.ExecuteRunRequest(job=RunJob.FromString(job.body))
        call = self.executor.ExecuteRun(request, timeout=DEADLINE, wait_for_ready=True)
        return [response.event async for response in call]

    async def waiting_for_locks(self) -> int:
        query = """SELECT count(*) FROM pg_stat_activity
                   WHERE application_name = 'executor-service' AND wait_event_type = 'Lock'"""
        count: int = await self.bench.value(query)
        return count

    async def connections(self) -> int:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'executor-service'"
        count: int = await self.bench.value(query)
        return count

    async def lease(self, run_id: UUID) -> datetime:
        first = "run_id = %(id)s AND status = 'RUNNING' AND attempt = 1"
        until: datetime = await self.bench.value(
            f"SELECT lease_until FROM executor.executions WHERE {first}", id=run_id
        )
        return until


@pytest.fixture
async def serve(
    executor_forks: Forks,
    log: Path,  # noqa: F811
    environment: dict[str, str],  # noqa: F811
    bench: Bench,
) -> AsyncIterator[Any]:
    """Start an executor-service with these settings beside the usual ones."""

    @asynccontextmanager
    async def serve(**settings: str) -> AsyncIterator[Running]:
        process = executor_forks.run(log, env=environment | settings)
        try:
            async with grpc.aio.insecure_channel(environment["EXECUTOR_LISTEN"]) as channel:
                running = Running(channel, bench, process)
                request = catalog.PutProjectRequest(project_id="ready", plan=catalog.Project.PRO)
                await running.catalog.PutProject(request, wait_for_ready=True, timeout=DEADLINE)
                yield running
        finally:
            process.kill()

    return serve


@contextmanager
def locked(bench: Bench, query: str, *parameters: object) -> Iterator[None]:
    """Hold the rows of a query within the block."""
    with psycopg.connect(bench.url) as connection:
        connection.execute(f"{query} FOR UPDATE", parameters)  # type: ignore[arg-type]
        yield


PROJECT = "SELECT FROM executor.projects WHERE id = %s"
EXECUTION = "SELECT FROM executor.executions WHERE run_id = %s"


async def test_callers_that_use_all_their_connections_delay_no_run(serve: Any, bench: Bench) -> None:
    await bench.stock(1)
    await bench.stock(1, project="locked")
    put = catalog.PutProductsRequest(project_id="locked", products=[catalog.Product(id="a", title="A")])
    async with serve() as running:
        with locked(bench, PROJECT, "locked"):
            callers = [asyncio.ensure_future(running.catalog.PutProducts(put, timeout=DEADLINE)) for _ in range(30)]
            await eventually(lambda: _at_least(5, running.waiting_for_locks()))
            events = await running.execute(job())
            assert await running.waiting_for_locks() == 5  # half of the 10 that runs have
        assert (events[-1].status, events[-1].attempt) == (Run.SUCCEEDED, 1)
        answers = await asyncio.gather(*callers, return_exceptions=True)
        assert not all(isinstance(answer, Exception) for answer in answers)  # those with a connection went on
        assert await running.connections() <= 10 + 5 + LEASE_CONNECTIONS


async def test_work_that_uses_all_its_connections_lets_no_lease_run_out(
    serve: Any,
    bench: Bench,
    openai: OpenAIServer,  # noqa: F811
) -> None:
    await bench.stock(1)
    await bench.stock(1, project="locked")
    slow, *stuck = job(), job(project="locked"), job(project="locked")
    async with serve(EXECUTOR_DATABASE_POOL_SIZE="2", EXECUTOR_LEASE_SECONDS=str(LEASE)) as running:
        openai.behave(Behaviour(delay_seconds=60))
        following = [asyncio.create_task(running.execute(slow))]
        await openai.wait_for(lambda stats: stats.in_flight == 1)
        openai.behave(Behaviour())
        with locked(bench, PROJECT, "locked"):
            following += [asyncio.create_task(running.execute(one)) for one in stuck]
            await eventually(lambda: _at_least(2, running.waiting_for_locks()))
            before = await running.lease(slow.run_id)

            async def renewed() -> bool:
                return (await running.lease(slow.run_id) - before).total_seconds() > 2 * LEASE

            await eventually(renewed)
        ends = [(await task)[-1] for task in following[1:]]
        assert [(end.status, end.attempt) for end in ends] == [(Run.SUCCEEDED, 1)] * 2
        following[0].cancel()


async def test_cancels_of_a_run_that_is_being_written_delay_no_other(
    serve: Any,
    bench: Bench,
    openai: OpenAIServer,  # noqa: F811
) -> None:
    await bench.stock(1)
    await bench.stock(1, project="other")
    written = job()
    async with serve() as running:
        openai.behave(Behaviour(delay_seconds=60))
        following = asyncio.create_task(running.execute(written))
        await openai.wait_for(lambda stats: stats.in_flight == 1)
        openai.behave(Behaviour())
        cancel = pb.CancelRunsRequest(jobs=[RunJob.FromString(written.body)])
        with locked(bench, EXECUTION, written.run_id):
            callers = [asyncio.ensure_future(running.executor.CancelRuns(cancel, timeout=DEADLINE)) for _ in range(30)]
            for _ in range(5):
                events = await running.execute(job(project="other", sample=1))
                assert (events[-1].status, events[-1].attempt) == (Run.SUCCEEDED, 1)
            assert not any(caller.done() for caller in callers)
            assert await running.waiting_for_locks() == 0
        assert {answer.events[0].status for answer in await asyncio.gather(*callers)} == {Run.CANCELLED}
        assert (await following)[-1].status == Run.CANCELLED


async def _at_least(count: int, asked: Any) -> bool:
    return bool(await asked >= count)
