"""Scenario 10: two runs_service and three executor processes under load while each is restarted in turn. No caller
notices, and nothing happens twice."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.executions import rows
from tests.support.load import Load
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import DEADLINE, TITLES, Shop
from tests.support.standard_client import OPTIONS, all_of
from tests.support.stopping import restarted, stopped

RATE = size(20, 8)  # runs a second
ROUNDS = size(3, 1)  # restarts of each process
PROJECTS = size(600, 100)
FRESH = 3  # of so many runs one is the first of its project, with AI
PRODUCTS = 2
BATCH = 1  # products a request: an interrupted run has answers, and requests under way
AT_ONCE = 4  # requests of one executor
GRACE = 5.0  # seconds that executors give their work
LEASE = 6.0  # seconds; longer than two busy cores may keep a heartbeat waiting


class Callers:
    """Clients that make every other unary call, one after another, and see each answered."""

    def __init__(self, shop: Shop, preview: Run, runs: grpc.aio.Channel, executors: grpc.aio.Channel) -> None:
        self._shop = shop
        service, catalogs, executions = (
            RunsServiceStub(runs),
            CatalogServiceStub(executors),
            ExecutorServiceStub(executors),
        )
        project = {"project_id": shop.project}
        run = {**project, "run_id": preview.id}
        playbook = {**project, "playbook_id": TITLES}
        product = catalog.Product(
            id=shop.product_id(1), title="Thing 1", description=f"<p>Good. Article {shop.product_id(1)}</p>"
        )
        self._calls: list[Callable[[dict[str, Any]], Awaitable[Any]]] = [
            lambda auth: service.GetRun(pb.GetRunRequest(**run), **auth),
            lambda auth: service.ListRuns(pb.ListRunsRequest(**project), **auth),
            lambda auth: service.CancelRun(pb.CancelRunRequest(**run), **auth),  # has ended already
            lambda auth: service.PreviewPlaybook(pb.PreviewPlaybookRequest(**playbook), **auth),
            lambda auth: catalogs.GetProject(catalog.GetProjectRequest(**project), **auth),
            lambda auth: catalogs.ListProducts(catalog.ListProductsRequest(**project), **auth),
            lambda auth: catalogs.PutProducts(catalog.PutProductsRequest(**project, products=[product]), **auth),
            lambda auth: executions.EstimatePlaybook(executor.EstimatePlaybookRequest(**playbook), **auth),
            lambda auth: executions.GetLatestDraft(executor.GetLatestDraftRequest(**playbook), **auth),
        ]
        self.answers: Counter[int] = Counter()

    async def call_on(self, number: int) -> None:
        """Make call after call of one kind until cancelled."""
        while True:
            began = time.monotonic()
            await self._calls[number](self._shop.auth())
            self.answers[number] += 1
            await asyncio.sleep(max(0.0, began + 0.1 - time.monotonic()))

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        return [tasks.create_task(self.call_on(number)) for number in range(len(self._calls))]


@pytest.mark.timeout(900)
async def test_restarts_in_turn_fail_no_call_and_double_nothing(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    shop: Shop = await start_stack(
        runs_replicas=2,
        executor_replicas=3,
        env={
            "AI_BATCH_SIZE": str(BATCH),
            "AI_CONCURRENCY": str(AT_ONCE),
            "EXECUTOR_LEASE_SECONDS": str(LEASE),
            "RUNS_RECONCILE_SECONDS": "1",
        },
    )
    stack = shop.stack
    projects = [Shop(stack, shop.channels) for _ in range(PROJECTS)]
    for some in range(0, PROJECTS, 20):
        await asyncio.gather(*map(stocked, projects[some : some + 20]))
    await stocked(shop)
    preview = await shop.preview()
    openai.reset()
    openai.behave(Behaviour(delay_seconds=0.2))
    runs = all_of(stack.runs)

    fresh, known = projects[:], list[Shop]()
    kept = PROJECTS // 3  # for the kills

    def request(number: int) -> pb.CreateRunRequest:
        # Not two of a fresh project: at once they would both ask for what neither has, as docs/reliability.md says.
        project = shop
        if number % FRESH == 0 and len(fresh) > kept:
            project = fresh.pop()
            known.append(project)
        return pb.CreateRunRequest(project_id=project.project, playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)

    async with (
        grpc.aio.insecure_channel(runs, options=OPTIONS) as runs_channel,
        grpc.aio.insecure_channel(all_of(stack.executors), options=OPTIONS) as executors_channel,
        Load(stack, request, targets=[runs], options=OPTIONS, retries=False) as load,
        asyncio.TaskGroup() as tasks,
    ):
        creating = tasks.create_task(load.create(rate=RATE))
        callers = Callers(shop, preview, runs_channel, executors_channel)
        calling = callers.start(tasks)
        await load.reaches(RATE)
        for _ in range(ROUNDS):
            for service in (*stack.runs, *stack.executors):
                seconds = await stopped(service, grace=GRACE)
                print(f"{service.name} stopped in {seconds:.1f} s, {len(load.acknowledged)} runs so far")
                await restarted(service)
        in_turn, asked = answered_twice(openai), len(openai.stats().answered)
        kept = 0
        for _ in range(ROUNDS):
            for service in stack.executors:
                service.kill()
                await load.reaches(len(load.acknowledged) + RATE)
                await restarted(service)
        load.stop()
        await creating
        await load.all_ended()
        for task in calling:
            task.cancel()

    assert {call.code for call in load.calls} == {grpc.StatusCode.OK}
    assert len({run.id for run in load.acknowledged.values()}) == len(load.acknowledged) == load.started
    assert {run.status for run in load.ends.values()} == {Run.SUCCEEDED}
    assert all(callers.answers[number] > ROUNDS for number in range(len(calling)))
    calls, answers = sum(callers.answers.values()), len(openai.stats().answered)
    print(f"{load.started} runs, {calls} other calls, {answers} answers, {answered_twice(openai)} twice after kills")

    # A restart repeats no paid request; a kill those that were under way.
    assert asked > PRODUCTS * ROUNDS * len(stack.processes)
    assert in_turn == 0
    assert answered_twice(openai) <= ROUNDS * len(stack.executors) * AT_ONCE
    some = known[:20]
    assert await apply_all(some, runs) == len(some) * PRODUCTS
    ((written,),) = rows(stack, "SELECT count(*) FROM executor.run_items WHERE status = 'UPDATED'")
    assert written == len(some) * PRODUCTS
    assert await audit(stack, unacknowledged=100) >= load.started


async def stocked(shop: Shop) -> None:
    await shop.open()
    await shop.stock(PRODUCTS)


def answered_twice(openai: OpenAIServer) -> int:
    """Return how many answers were paid for again."""
    return sum(times - 1 for times in openai.stats().answered.values())


async def apply_all(projects: list[Shop], target: str) -> int:
    """Apply every project's draft by ten calls at once; return how many products that updated."""
    updated = 0
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        for project in projects:
            draft = await project.latest_draft()
            request = pb.ApplyPlaybookRequest(
                project_id=project.project, playbook_id=TITLES, scope_id=draft.scope_id, rules_hash=draft.rules_hash
            )
            auth = {**project.auth(), "timeout": DEADLINE}
            answers = await asyncio.gather(
                *(RunsServiceStub(channel).ApplyPlaybook(request, **auth) for _ in range(10))
            )
            assert len({answer.run.id for answer in answers}) == 1
            updated += answers[0].run.result.updated
    return updated
