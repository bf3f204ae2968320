"""Cancels that race with completions, and cancels inside AI calls: one end each, and every reader sees the same one."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import psycopg
import pytest
from playbooks.runs.v1.run_pb2 import Run

from devstack.stack import Stack
from tests.faults.sizes import overbooked, size
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Shop, refusal

AT_ONCE = 25


def executions(stack: Stack, project: str) -> dict[str, str]:
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        query = "SELECT run_id::text, status FROM executor.executions WHERE project_id = %s"
        return dict(database.execute(query, [project]).fetchall())


@pytest.mark.timeout(600)
async def test_cancels_against_completions_agree(start_stack: Callable[..., Any]) -> None:
    """Each run ends in one state, and the row, the stream and the executor say the same."""
    shop: Shop = await start_stack(runs_replicas=2, executor_replicas=2)
    await shop.stock(3)
    preview = await shop.preview()
    count = size(1_000, 100)

    async def race(number: int) -> tuple[Run, Run, Run]:
        keys = {"scope_id": preview.scope_id, "rules_hash": preview.rules_hash, "idempotency_key": f"race {number}"}
        run = (await shop.create(Run.APPLY, replica=number % 2, **keys)).run
        watched = asyncio.create_task(shop.watch(run.id, after=0, replica=(number + 1) % 2))
        if number % 3:  # spreads the cancels over the whole life of a run
            await asyncio.sleep(0.01 * (number % 7))
        cancelled = await shop.cancel(run.id, replica=number % 2)
        history = await watched
        assert [message.run.sequence for message in history] == list(range(1, len(history) + 1))
        return cancelled, history[-1].run, await shop.get(run.id)

    ends = [
        end
        for start in range(0, count, AT_ONCE)
        for end in await asyncio.gather(*map(race, range(start, min(start + AT_ONCE, count))))
    ]

    assert len(ends) == count
    assert all(cancelled == watched == stored for cancelled, watched, stored in ends)
    executor_statuses = executions(shop.stack, shop.project)
    assert all(executor_statuses[run.id] == Run.Status.Name(run.status) for run, _, _ in ends)
    assert Run.CANCELLED in {run.status for run, _, _ in ends}
    assert await audit(shop.stack) == count + 1


async def test_a_cancel_inside_ai_calls_takes_less_than_two_seconds_with_any_executor(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    """runs_service calls one of two executors; of so many runs the other one works on some."""
    shop: Shop = await start_stack(executor_replicas=2, executor_env={"EXECUTOR_CONCURRENCY": "4"})
    await shop.stock(3)
    openai.behave(Behaviour(delay_seconds=30))
    runs = [(await shop.create(Run.PREVIEW_GENERATE, idempotency_key=f"{number}")).run for number in range(8)]
    # Eight runs are more than one executor has places for.
    await openai.wait_for(lambda stats: stats.in_flight > 0, timeout_seconds=20)

    started = time.monotonic()
    answers = await asyncio.gather(*(shop.cancel(run.id) for run in runs))
    answered = time.monotonic() - started
    await openai.wait_for(lambda stats: stats.in_flight == 0, timeout_seconds=5)
    stopped = time.monotonic() - started

    assert answered < 2.0 * overbooked()
    assert stopped < 2.0 * overbooked()
    assert {answer.status for answer in answers} == {Run.CANCELLED}
    assert openai.stats().aborted > 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.latest_draft()
    assert refusal(caught.value).reason == "DRAFT_NOT_FOUND"
    assert await shop.ai_used_today() == 0
    assert await audit(shop.stack) == len(runs)
    assert set(executions(shop.stack, shop.project).values()) == {"CANCELLED"}
