"""executor-service as a process: how it starts, refuses to start, and stops."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
import redis
from playbooks.executor.v1 import executor_service_pb2 as pb
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.executor.v1.job_pb2 import RunJob, RunJobBatch

from devstack.ports import HOST, free_ports
from devstack.valkey import Valkey
from executor_service.execution.inbox import JOBS_QUEUE
from servicekit.broker import MessageSigner, Publisher
from servicekit.telemetry.metrics import Metrics
from tests.support.broker import take_all
from tests.support.executor import Bench, job
from tests.support.forking import Forks
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.waiting import eventually

DEADLINE = 30  # seconds


@pytest.fixture
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def environment(executor_database: str, openai: OpenAIServer) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("EXECUTOR_", "AI_", "OPENAI_"))},
        "EXECUTOR_DATABASE_URL": executor_database,
        "EXECUTOR_LISTEN": f"{HOST}:{free_ports(1)[0]}",
        "EXECUTOR_GRACE_SECONDS": "0.1",
        "AUTH_MODE": "disabled",
        "OPENAI_API_KEY": openai.api_key,
        "OPENAI_BASE_URL": openai.base_url,
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "executor.log"


async def test_at_sigterm_it_hands_its_runs_back_and_ends_with_0(
    executor_forks: Forks, log: Path, environment: dict[str, str], openai: OpenAIServer, bench: Bench
) -> None:
    await bench.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    process = executor_forks.run(log, env=environment)
    try:
        async with grpc.aio.insecure_channel(environment["EXECUTOR_LISTEN"]) as channel:
            call = ExecutorServiceStub(channel).ExecuteRun(
                pb.ExecuteRunRequest(job=RunJob.FromString(job().body)), wait_for_ready=True, timeout=DEADLINE
            )
            following = asyncio.create_task(read_all(call))
            await openai.wait_for(lambda stats: stats.in_flight == 1)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await following
        assert await asyncio.to_thread(process.wait, DEADLINE) == 0
    finally:
        process.kill()
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    (row,) = await bench.rows("SELECT status, lease_owner, lease_until < now(), crashes FROM executor.executions")
    assert tuple(row) == ("RUNNING", None, True, 0)


async def test_at_sigterm_it_leaves_messages_to_others_while_its_work_goes_on(
    executor_forks: Forks,
    log: Path,
    environment: dict[str, str],
    openai: OpenAIServer,
    bench: Bench,
    valkey_server: Valkey,
) -> None:
    await bench.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    prefix = f"test-{uuid4().hex[:12]}"
    queue = f"{prefix}.{JOBS_QUEUE}"

    def connections(**wanted: str) -> set[str]:
        with redis.Redis.from_url(valkey_server.url) as broker:
            return {one["id"] for one in broker.client_list() if wanted.items() <= one.items()}

    others = connections()  # of earlier tests, whose consumers may still be there
    process = executor_forks.run(
        log,
        env=environment
        | {"BROKER_URL": valkey_server.url, "BROKER_QUEUE_PREFIX": prefix, "EXECUTOR_GRACE_SECONDS": str(DEADLINE)},
    )
    publisher = Publisher(valkey_server.url, queue, Metrics(), MessageSigner(()))
    try:
        await eventually(lambda: connections(cmd="brpop") - others)
        (consuming,) = connections(cmd="brpop") - others
        await publisher.publish(RunJobBatch(jobs=[RunJob.FromString(job().body)]).SerializeToString())
        await openai.wait_for(lambda stats: stats.in_flight == 1)
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: consuming not in connections())
        await publisher.publish(b"for another")
        assert process.poll() is None
    finally:
        await publisher.close()
        process.kill()
    assert [body for body, _ in take_all(valkey_server.url, queue)] == [b"for another"]


async def read_all(call: Any) -> list[Any]:
    return [response async for response in call]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"EXECUTOR_CONCURRENCY": "0"}, ["EXECUTOR_CONCURRENCY", "must be 1 or more"]),
        ({"AI_PROVIDER": "mistral"}, ["AI_PROVIDER", "'openai' or 'offline'"]),
        ({"DEFAULT_PLAN": "GOLD"}, ["DEFAULT_PLAN", "'FREE', 'PRO' or 'BUSINESS'"]),
        ({"AI_PROVIDER": "openai", "OPENAI_API_KEY": ""}, ["OPENAI_API_KEY", "AI_PROVIDER=offline"]),
        ({"EXECUTOR_DATABASE_URL": "sqlite://"}, ["EXECUTOR_DATABASE_URL", "postgresql://"]),
        ({"AUTH_MODE": "jwt"}, ["AUTH_JWT_SECRET"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_value_stops_the_start_with_its_name_and_what_is_allowed(
    executor_forks: Forks, log: Path, environment: dict[str, str], settings: dict[str, str], words: list[str]
) -> None:
    process = executor_forks.run(log, env=environment | settings)
    assert process.wait(DEADLINE) != 0
    errors = log.read_text()
    assert "Traceback" not in errors
    assert all(word in errors for word in words), errors


def test_help_names_every_variable(executor_forks: Forks, log: Path, environment: dict[str, str]) -> None:
    assert executor_forks.run(log, "--help", env=environment).wait(DEADLINE) == 0
    shown = log.read_text()
    for name in (
        "EXECUTOR_DATABASE_URL",
        "BROKER_URL",
        "EXECUTOR_LEASE_SECONDS",
        "AI_BATCH_SIZE",
        "DEFAULT_PLAN",
        "migrate",
    ):
        assert name in shown
