"""Projects of 200,000 products: however large one is, the event loop has time for the others."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator

import pytest

from executor_service.playbooks.playbook import MISSING_SEO_TITLE
from executor_service.playbooks.quota import Plan
from executor_service.playbooks.rules import Rules
from tests.support.crowd import insert_products, longest_hold
from tests.support.executor import Bench
from tests.support.processor import without_collections
from tests.support.shop import TITLES, scope_of

LARGE = 200_000
LARGEST = 400_000
# Seconds. What an estimate does on the loop does not depend on the project; 400,000 ids alone would take 50 ms.
ESTIMATE_HOLD = 0.03
RUN_HOLD = 0.05


@pytest.fixture(autouse=True)
def _no_collections() -> Iterator[None]:
    with without_collections():
        yield


async def shortest(attempts: int, do: Callable[[], Awaitable[object]], *, enough: float) -> float:
    """Return the shortest of several longest holds: on a busy machine the same work takes longer.

    The first that is shorter than `enough` is taken.
    """
    shortest = math.inf
    for _ in range(attempts):
        shortest = min(shortest, await longest_hold(do()))
        if shortest < enough:
            break
    return shortest


async def test_an_estimate_does_not_hold_the_loop(bench: Bench) -> None:
    await bench.stock(0)
    await asyncio.to_thread(insert_products, bench.url, "p", LARGEST)
    ids = (f"product-{number:08}" for number in range(1, LARGEST + 1))
    scope = (scope_of("p", TITLES, ids), LARGEST)
    for plan in (Plan.PRO, Plan.BUSINESS):
        await bench.stock(0, plan=plan)

        async def estimate(plan: Plan = plan) -> None:
            found = await bench.estimator.estimate("p", MISSING_SEO_TITLE, Rules())
            assert bool(found.reasons) == (plan is Plan.PRO)
            assert found.scope == scope

        hold = await shortest(5, estimate, enough=ESTIMATE_HOLD)
        assert hold < ESTIMATE_HOLD, f"{1000 * hold:.0f} ms"


async def test_runs_of_a_large_project_do_not_hold_the_loop(executor_database: str) -> None:
    count = LARGE // 4
    async with Bench(executor_database, batch_size=500) as bench, bench.working():
        await bench.stock(0)
        await asyncio.to_thread(insert_products, bench.url, "p", count)
        preview = await bench.preview()

        async def draft() -> None:
            drafted = await bench.draft(preview)
            assert drafted.result == {"affected_total": count, "draft_generated": count, "no_suggestion_count": 0}

        async def apply() -> None:
            assert (await bench.applied(preview)).completed == count

        first = await longest_hold(draft())  # asks for everything
        drafting = first if first < RUN_HOLD else await shortest(2, draft, enough=RUN_HOLD)
        applying = await longest_hold(apply())
    assert drafting < RUN_HOLD, f"{1000 * drafting:.0f} ms"
    assert applying < RUN_HOLD, f"{1000 * applying:.0f} ms"
    assert first < 2 * RUN_HOLD, f"{1000 * first:.0f} ms"
