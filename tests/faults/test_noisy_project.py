"""Scenario 13: one project's callers create runs as fast as they can, and take no notice of any refusal. Another
project's creates do not feel it."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from tests.faults.sizes import overbooked, size, tail
from tests.support.attacking import attacking
from tests.support.audit import audit
from tests.support.executions import rows
from tests.support.shop import TITLES, Shop

CALLERS = 128
CREATES = size(2_000, 300)  # of the others, in quiet and beside the noise
PER_SECOND, QUEUED = 20, 200
OTHERS = 3
PACE = 1 / 40  # seconds between two creates of the other project
SLOWER = 2  # times the tail while it is quiet
MARGIN = 0.01  # seconds
LIMITS = {"RUNS_MAX_CREATES_PER_SECOND": str(PER_SECOND), "RUNS_MAX_QUEUED": str(QUEUED), "AI_PROVIDER": "offline"}


@pytest.mark.alone
async def test_a_project_that_creates_as_fast_as_it_can_slows_no_other(start_stack: Callable[..., Any]) -> None:
    shop: Shop = await start_stack(env=LIMITS)
    noisy = Shop(shop.stack, shop.channels)
    others = [Shop(shop.stack, shop.channels) for _ in range(OTHERS)]
    for one in (noisy, *others):
        await one.open()
    keys = itertools.count()

    def wanted(project: str) -> CreateRunRequest:
        return CreateRunRequest(
            project_id=project,
            playbook_id=TITLES,
            run_type=Run.PREVIEW_GENERATE,
            idempotency_key=str(next(keys)),
        )

    async def creates(number: int) -> list[float]:
        """How long the others' creates take, in seconds."""
        seconds = []
        for _, other in zip(range(number), itertools.cycle(others), strict=False):
            started = time.monotonic()
            await other.runs().CreateRun(wanted(other.project), **other.auth())
            seconds.append(time.monotonic() - started)
            await asyncio.sleep(PACE)
        return seconds

    quiet = await creates(CREATES // 2)
    token = shop.stack.token(noisy.project, "OWNER")
    async with attacking("creates", shop.stack.runs_target, noisy.project, CALLERS, token) as noise:
        loud = await creates(CREATES)
        answered = (await noise.ended())["answered"]
    quiet += await creates(CREATES // 2)
    [(stored,)] = rows(shop.stack, f"SELECT count(*) FROM runs.runs WHERE project_id = '{noisy.project}'")
    print(f"tail {tail(quiet):.3f} s, beside the noise {tail(loud):.3f} s; {stored} of {answered} noisy creates stored")
    assert answered > 2 * stored
    assert tail(loud) < SLOWER * overbooked() * tail(quiet) + MARGIN
    await audit(shop.stack)
