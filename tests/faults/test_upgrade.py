"""The last release's processes are replaced by ours, one by one and under load: no caller notices, no run is lost."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from devstack.services import Service, migrate
from devstack.stack import Stack
from servicekit.health_probe import is_serving
from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.executions import rows
from tests.support.load import Load
from tests.support.released import ROOT, Release
from tests.support.shop import TITLES, Shop
from tests.support.standard_client import OPTIONS, all_of
from tests.support.stopping import restarted, stopped
from tests.support.waiting import eventually

RATE = size(20, 8)  # runs a second
PROJECTS = size(100, 20)
FRESH = 3  # of so many runs one is the first of its project, with AI
PRODUCTS = 2
GRACE = 5.0  # seconds that executors give their work
WAITING = 5  # runs of each version whose messages wait in the queues
JOBS, EVENTS = "playbook-runs.jobs", "playbook-runs.events"
LAST = "last-release"  # the folder of its code


async def started(service: Service, code: dict[str, str]) -> None:
    """Start a service that was stopped: the last release's with the environment `code` leads to it, ours with none."""
    service.env.pop("PYTHONPATH", None)
    service.env.update(code)
    await restarted(service)
    assert is_of_the_last_release(service) == bool(code)


async def replaced(service: Service, code: dict[str, str]) -> None:
    await stopped(service, grace=GRACE)
    await started(service, code)


def is_of_the_last_release(service: Service) -> bool:
    where = [sys.executable, "-c", f"import {service.kind}_service as code; print(code.__path__[0])"]
    found = subprocess.run(where, env=service.env, cwd="/", capture_output=True, text=True, check=True)
    return f"/{LAST}/" in found.stdout


def revisions(stack: Stack) -> dict[str, str]:
    return {kind: rows(stack, f"SELECT version_num FROM {kind}.alembic_version")[0][0] for kind in ("runs", "executor")}


@pytest.mark.timeout(600)
async def test_the_last_release_is_replaced_by_ours_and_back_without_a_gap(
    start_stack: Callable[..., Any], tmp_path: Path
) -> None:
    release = Release.last()
    released = release.unpack(tmp_path / LAST)
    shop: Shop = await start_stack(
        data_dir=tmp_path / "stack",
        runs_replicas=2,
        executor_replicas=2,
        env={**released, "RUNS_RECONCILE_SECONDS": "1"},
    )
    stack = shop.stack
    assert revisions(stack) == release.schemas, "released.toml names other revisions than its commit has"
    for file in (tmp_path / LAST).glob("*_service/migrations/versions/*.py"):
        ours = ROOT / file.relative_to(tmp_path / LAST)
        assert ours.read_bytes() == file.read_bytes(), f"{ours.name} is released, and released migrations never change"
    services = [*stack.runs, *stack.executors]
    assert all(map(is_of_the_last_release, services))
    fresh = [Shop(stack, shop.channels) for _ in range(PROJECTS)]
    for project in (shop, *fresh):
        await project.open()
        await project.stock(PRODUCTS)
    await shop.preview()

    def request(number: int) -> pb.CreateRunRequest:
        project = fresh.pop() if number % FRESH == 0 and fresh else shop
        return pb.CreateRunRequest(project_id=project.project, playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)

    async with Load(stack, request, targets=[all_of(stack.runs)], options=OPTIONS, retries=False) as load:
        creating = asyncio.create_task(load.create(rate=RATE))

        async def goes_on() -> None:
            assert not creating.done()
            await load.reaches(len(load.acknowledged) + RATE)

        await goes_on()
        # First the schemas, while the last release is at work.
        of_each = [stack.runs[0], stack.executors[0]]
        for service in of_each:
            del service.env["PYTHONPATH"]
        await asyncio.to_thread(migrate, of_each)
        await goes_on()
        assert all(is_serving(service.target) for service in services)
        # Then the services. In between both versions publish, and both consume.
        for service in (stack.executors[1], stack.runs[1], *of_each):
            await replaced(service, {})
            await goes_on()
        # One of each goes back, as when the new release disappoints.
        for service in (stack.executors[1], stack.runs[1]):
            await replaced(service, released)
            await goes_on()
        load.stop()
        await creating
        await load.all_ended()
    assert {call.code for call in load.calls} == {grpc.StatusCode.OK}
    assert {run.status for run in load.ends.values()} == {Run.SUCCEEDED}
    assert await audit(stack) >= load.started

    # Messages of both versions wait for the other one.
    (ours, old), (our_executor, old_executor) = stack.runs, stack.executors
    for executor, runs, theirs in ((old_executor, ours, {}), (our_executor, old, released)):
        await asyncio.gather(*(stopped(one, grace=GRACE) for one in stack.executors))
        for replica in (0, 1):
            for number in range(WAITING):
                key = f"{executor.name} {replica} {number}"
                await shop.create(run_type=Run.PREVIEW_GENERATE, idempotency_key=key, replica=replica)
        await eventually(lambda: waiting(stack, JOBS) >= WAITING)
        await asyncio.gather(*(stopped(one, grace=GRACE) for one in stack.runs))
        await restarted(executor)
        await eventually(lambda: not waiting(stack, JOBS) and waiting(stack, EVENTS))
        await started(runs, theirs)
        await audit(stack)
        for one in services:
            await restarted(one)
    assert not waiting(stack, f"{JOBS}.dead") + waiting(stack, f"{EVENTS}.dead")
    ((others,),) = rows(stack, "SELECT count(*) FROM runs.runs WHERE status <> 'SUCCEEDED'")
    assert not others


def waiting(stack: Stack, queue: str) -> int:
    """Return how many messages are in a queue."""
    assert stack.valkey
    with redis.Redis.from_url(stack.valkey.url) as broker:
        return int(broker.llen(queue))
