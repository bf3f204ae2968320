"""Where a project's limits refuse new runs, a repeated call still gets the run that it made: a real runs-service."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CancelRunRequest, CreateRunRequest, RetryRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.valkey import Valkey
from tests.conftest import new_database
from tests.support.forking import Forks
from tests.support.prepared import RUNS_TEMPLATE
from tests.support.runs import request
from tests.support.service import ServiceProcess, metadata
from tests.support.shop import refusal

DEADLINE = 20  # seconds of a call
# A process with one of these refuses a project's second create, or its second and every later one.
LIMITS = {
    "CREATE_RATE_EXCEEDED": ("creates_per_second", {"RUNS_MAX_CREATES_PER_SECOND": "0.001"}),
    "QUEUE_FULL": ("queued_runs", {"RUNS_MAX_QUEUED": "1"}),
}


@dataclass
class Desk:
    """Two replicas: one that has let a project create all that it may, and one without such limits."""

    project: str
    reason: str  # of a refusal
    limit: str  # as the metric names it
    limited: RunsServiceStub
    unlimited: RunsServiceStub
    process: ServiceProcess

    @property
    def options(self) -> dict[str, Any]:
        return {"metadata": metadata(self.project), "timeout": DEADLINE}

    def wanted(self, **fields: Any) -> CreateRunRequest:
        return request(project_id=self.project, **fields)

    async def refused(self) -> int:
        return int(await self.process.limits_reached(self.limit))

    async def refusal_of(self, wanted: CreateRunRequest) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.limited.CreateRun(wanted, **self.options)
        return refusal(caught.value).reason


@pytest.fixture(scope="module")
async def database_url(postgres_server: Any) -> AsyncIterator[str]:
    for url in new_database(postgres_server, template=RUNS_TEMPLATE):
        yield url


@pytest.fixture(params=LIMITS)
async def desk(
    request: pytest.FixtureRequest, runs_forks: Forks, database_url: str, valkey_server: Valkey, tmp_path: Any
) -> AsyncIterator[Desk]:
    limit, limits = LIMITS[request.param]
    environment = {
        "RUNS_DATABASE_URL": database_url,
        "BROKER_URL": valkey_server.url,
        "BROKER_QUEUE_PREFIX": "repeats",
    }
    with (
        ServiceProcess(runs_forks, "runs", tmp_path / "limited", environment | limits) as limited,
        ServiceProcess(runs_forks, "runs", tmp_path / "unlimited", environment) as unlimited,
    ):
        async with grpc.aio.insecure_channel(limited.target) as one, grpc.aio.insecure_channel(unlimited.target) as two:
            desk = Desk(f"p-{uuid4()}", request.param, limit, RunsServiceStub(one), RunsServiceStub(two), limited)
            await desk.limited.CreateRun(desk.wanted(idempotency_key="first"), **desk.options)
            yield desk


async def test_a_repeated_create_gets_its_run_and_a_new_one_is_refused(desk: Desk) -> None:
    request_id = str(uuid4())
    keyed = desk.wanted(idempotency_key="k")
    named = desk.wanted(request_id=request_id, scope_id="of the named")
    derived = desk.wanted(scope_id="of the derived key")
    runs = [(await desk.unlimited.CreateRun(wanted, **desk.options)).run for wanted in (keyed, named, derived)]
    assert len({run.id for run in runs}) == 3
    assert await desk.refusal_of(desk.wanted(idempotency_key="new")) == desk.reason
    refused = await desk.refused()

    repeats = [await desk.limited.CreateRun(wanted, **desk.options) for wanted in (keyed, named, derived)]
    assert [repeat.run.id for repeat in repeats] == [run.id for run in runs]
    assert [repeat.created for repeat in repeats] == [False, True, False]
    other = desk.wanted(idempotency_key="k", playbook_id="missing_seo_description")
    assert await desk.refusal_of(other) == "IDEMPOTENCY_KEY_REUSED"
    assert await desk.refused() == refused, "repeats are not refused"
    assert await desk.refusal_of(desk.wanted(request_id=str(uuid4()), scope_id="new")) == desk.reason
    assert await desk.refused() == refused + 1


async def test_a_repeated_retry_gets_its_run_and_a_new_one_is_refused(desk: Desk) -> None:
    async def cancelled(key: str) -> Run:
        run = (await desk.unlimited.CreateRun(desk.wanted(idempotency_key=key), **desk.options)).run
        named = CancelRunRequest(project_id=desk.project, run_id=run.id)
        return (await desk.unlimited.CancelRun(named, **desk.options)).run

    retried, other = await cancelled("retried"), await cancelled("other")
    again = RetryRunRequest(project_id=desk.project, run_id=retried.id)
    retry = (await desk.unlimited.RetryRun(again, **desk.options)).run
    assert retry.retry_of == retried.id

    repeat = await desk.limited.RetryRun(again, **desk.options)
    assert (repeat.run.id, repeat.created) == (retry.id, False)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await desk.limited.RetryRun(RetryRunRequest(project_id=desk.project, run_id=other.id), **desk.options)
    assert refusal(caught.value).reason == desk.reason
