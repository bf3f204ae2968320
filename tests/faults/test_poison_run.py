"""A run that kills its executor each time: it is tried three times, and no other run fails with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from playbooks.runs.v1.run_pb2 import Run

from devstack.services import Service
from servicekit.failpoints import VARIABLE, FailPoint
from tests.faults.sizes import size
from tests.faults.test_kill_anywhere import answers, restart
from tests.support.audit import audit
from tests.support.executions import traces
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Shop
from tests.support.waiting import eventually

LEASE = 2.0  # seconds
ATTEMPTS = 3
BYSTANDERS = 3  # other projects


class Supervisor:
    """Starts an executor again whenever it has died, as a supervisor of processes does."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.deaths = 0
        self.env: dict[str, str] = {}  # of the next start

    async def run(self) -> None:
        while True:
            await eventually(lambda: self._service.died, timeout=600)
            assert "was killed by SIGKILL" in self._service.death_notice(), self._service.death_notice()
            self.deaths += 1
            await asyncio.to_thread(restart, self._service, self.env)


@contextlib.asynccontextmanager
async def supervised(service: Service, *, poison: str) -> AsyncIterator[Supervisor]:
    """Let work for the project `poison` kill the executor within the block, which is started again each time."""
    supervisor = Supervisor(service)
    supervisor.env = {VARIABLE: f"{FailPoint.EXECUTOR_IN_DRAFT}:1:SIGKILL:{poison}"}
    await asyncio.to_thread(restart, service, supervisor.env)
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(restart, service)


async def test_a_run_that_kills_its_executor_is_tried_three_times_and_others_go_on(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    """With one executor: everybody else works in the process that dies."""
    poison: Shop = await start_stack(
        env={"EXECUTOR_LEASE_SECONDS": str(LEASE), "RUNS_RECONCILE_SECONDS": "1", "AI_TIMEOUT_SECONDS": "600"}
    )
    (executor,) = poison.stack.executors
    others = [Shop(poison.stack, poison.channels) for _ in range(BYSTANDERS)]
    long = Shop(poison.stack, poison.channels)
    for shop in (poison, long, *others):
        await shop.open()
        await shop.stock(3)
        if shop is not long:
            await shop.preview()  # what these run is about runs, not about AI
    before = traces(poison)
    short_runs: list[Run] = []

    async def bystand(shop: Shop) -> None:
        """Run one short run after another."""
        for number in range(1_000_000):
            created = await patiently(lambda: shop.create(Run.PREVIEW_GENERATE, idempotency_key=f"by {number}"))  # noqa: B023
            short_runs.append(await shop.ended(created.run, timeout=120))

    async with supervised(executor, poison=poison.project) as supervisor:
        await eventually(lambda: answers(poison), timeout=30)
        # In the middle of its AI call at every death, until it is alone with that.
        openai.behave(Behaviour(delay_seconds=3600, product_ids=[long.product_id(1)]))
        unlucky = (await long.create(Run.PREVIEW_GENERATE)).run
        await openai.wait_for(lambda stats: stats.in_flight == 1, timeout_seconds=20)
        bystanders = [asyncio.create_task(bystand(shop)) for shop in others]
        run = (await poison.create(Run.PREVIEW_GENERATE, idempotency_key="poison")).run

        await eventually(lambda: supervisor.deaths == 2, timeout=120)
        openai.reset()
        run = await poison.ended(run, timeout=120)
        assert supervisor.deaths == ATTEMPTS
        more = len(short_runs) + size(20, 5)
        await eventually(lambda: len(short_runs) >= more, timeout=60)
        for task in bystanders:
            task.cancel()
        await asyncio.wait(bystanders)
        assert supervisor.deaths == ATTEMPTS

    assert (run.status, run.error_code, run.attempt) == (Run.FAILED, "MAX_ATTEMPTS_EXCEEDED", ATTEMPTS)
    assert traces(poison).drafts == before.drafts
    assert traces(poison).suggestions == before.suggestions
    assert {run.status for run in short_runs} == {Run.SUCCEEDED}
    unlucky = await long.ended(unlucky, timeout=60)
    assert unlucky.status == Run.SUCCEEDED, unlucky
    await check_retry(poison, executor, run)
    await eventually(lambda: answers(poison), timeout=30)
    await audit(poison.stack, unacknowledged=10, timeout=60)


async def check_retry(shop: Shop, executor: Service, failed: Run) -> None:
    """A retry has three attempts of its own: two deaths do not end it."""
    deaths = size(ATTEMPTS - 1, 1)
    async with supervised(executor, poison=shop.project) as supervisor:
        await eventually(lambda: answers(shop), timeout=30)
        again = await shop.retry(failed.id)
        assert again.created
        await eventually(lambda: supervisor.deaths == deaths - 1, timeout=60)
        supervisor.env = {}  # whatever it was, it is repaired before the last attempt
        run = await shop.ended(again.run, timeout=120)
        assert supervisor.deaths == deaths
    assert (run.status, run.attempt, run.retry_of) == (Run.SUCCEEDED, deaths + 1, failed.id)


async def patiently(call: Callable[[], Any]) -> Any:
    """Make a call until it succeeds: runs_service stands, but its stores may be busy."""
    results: list[Any] = []

    async def made() -> bool:
        with contextlib.suppress(Exception):
            results.append(await call())
        return bool(results)

    await eventually(made, timeout=60)
    return results[0]
