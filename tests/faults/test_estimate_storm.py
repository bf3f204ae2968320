"""Scenario 11: one project's callers ask for as much as they like. Another project's runs do not feel it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from playbooks.executor.v1.catalog_service_pb2 import Project
from playbooks.executor.v1.executor_service_pb2 import EstimatePlaybookRequest, EstimatePlaybookResponse
from playbooks.runs.v1.run_pb2 import Run

from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.crowd import crowd, insert_products
from tests.support.executions import rows
from tests.support.shop import TITLES, Shop, scope_of
from tests.support.waiting import eventually

PRODUCTS = 200_000
CALLERS = 64
RUNS = 5  # while it is quiet
ROUNDS = size(30, 4)  # of answers to all callers

UNDER_WAY = """
SELECT count(*) FROM pg_stat_activity
WHERE usename = 'executor_service' AND state = 'active' AND query LIKE '%%FROM executor.products%%'"""


@pytest.mark.alone
async def test_many_estimates_of_a_large_project_do_not_delay_runs_of_other_projects(
    start_stack: Callable[..., Any],
) -> None:
    shop: Shop = await start_stack(env={"AI_PROVIDER": "offline"})
    await shop.stock(20)
    large = Shop(shop.stack, shop.channels)
    await large.open(plan=Project.PRO)  # with a limit: what suggestions are missing is counted as well
    url = shop.stack.postgres.url(database="playbook_runs")
    await asyncio.to_thread(insert_products, url, large.project, PRODUCTS)
    answers: list[EstimatePlaybookResponse] = []

    async def estimate() -> None:
        request = EstimatePlaybookRequest(project_id=large.project, playbook_id=TITLES)
        answers.append(await large.executor.EstimatePlaybook(request, **large.auth("VIEWER")))

    async def seconds() -> float:
        """How long a run takes that nothing is stored for yet."""
        started = time.monotonic()
        run = await shop.preview(sample=1)
        assert (run.status, run.attempt) == (Run.SUCCEEDED, 1), run
        return time.monotonic() - started

    await seconds()  # the first one plans statements and opens connections
    quiet = max([await seconds() for _ in range(RUNS)])
    async with crowd(CALLERS, estimate):
        await eventually(lambda: rows(shop.stack, UNDER_WAY) != [(0,)])
        stormy = 0.0
        while len(answers) < ROUNDS * CALLERS:
            stormy = max(stormy, await seconds())
    print(f"quiet {quiet:.3f} s, in the storm {stormy:.3f} s; {len(answers)} estimates answered")
    assert stormy <= 2 * quiet + 1, f"quiet {quiet:.2f} s, in the storm {stormy:.2f} s"

    ids = (f"product-{number:08}" for number in range(1, PRODUCTS + 1))
    assert {(answer.scope_id, answer.total_affected) for answer in answers} == {
        (scope_of(large.project, TITLES, ids), PRODUCTS)
    }
    await audit(shop.stack)
