"""Both services entered by a test, in its own process."""

from typing import Any

import grpc
import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import GetRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.ports import HOST
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from runs_service import app as runs_app
from runs_service.settings import RunsSettings
from tests.support.runs import request


async def test_a_run_executes_inline_between_two_services_in_this_process(
    runs_database_url: str, executor_database: str
) -> None:
    common: dict[str, Any] = {"listen": f"{HOST}:0", "auth_mode": "disabled"}
    executor = ExecutorSettings(database_url=executor_database, ai_provider="offline", **common)
    async with executor_app.serving(executor) as executor_server:
        runs = RunsSettings(database_url=runs_database_url, executor_target=executor_server.address, **common)
        async with (
            runs_app.serving(runs) as runs_server,
            grpc.aio.insecure_channel(runs_server.address) as channel,
        ):
            stub = RunsServiceStub(channel)
            created = await stub.CreateRun(request(), timeout=20)
            assert created.created
            assert (created.run.status, created.run.error_code) == (Run.FAILED, "PROJECT_NOT_FOUND")
            read = await stub.GetRun(GetRunRequest(project_id="p", run_id=created.run.id), timeout=5)
            assert read.run == created.run
    async with grpc.aio.insecure_channel(runs_server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await RunsServiceStub(channel).CreateRun(request(), timeout=5)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
