"""CancelRun, RetryRun and deadlines, on the real stack."""

import time
from collections.abc import Callable

import grpc
import psycopg
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import DESCRIPTIONS, Shop, refusal
from tests.support.waiting import eventually


async def running(shop: Shop, openai: OpenAIServer, *, delay: float = 30.0, **fields: object) -> Run:
    """Return a run that waits for its AI provider."""
    openai.behave(Behaviour(delay_seconds=delay))
    run = (await shop.create(Run.PREVIEW_GENERATE, **fields)).run
    await openai.wait_for(lambda stats: stats.in_flight > 0)
    return run


async def test_a_cancel_inside_an_ai_call_takes_less_than_two_seconds(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(3)
    run = await running(shop, openai)
    started = time.monotonic()

    answer = await shop.cancel(run.id)
    await openai.wait_for(lambda stats: stats.aborted > 0)

    assert time.monotonic() - started < 2.0
    assert answer.status == Run.CANCELLED
    messages = await shop.watch(run.id, after=0)
    assert [message.run.sequence for message in messages] == list(range(1, len(messages) + 1))
    assert messages[-1].run == answer
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shop.latest_draft()
    assert refusal(caught.value).reason == "DRAFT_NOT_FOUND"
    assert await shop.ai_used_today() == 0


async def test_a_cancelled_run_stays_as_it_is(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(1)
    run = await running(shop, openai)
    first = await shop.cancel(run.id)
    assert await shop.cancel(run.id, replica=1) == first


async def test_a_finished_run_is_returned_as_it_is(shop: Shop) -> None:
    await shop.stock(1)
    run = await shop.preview()
    assert await shop.cancel(run.id) == run


async def test_an_apply_is_cancelled_by_its_owner_only(shop: Shop) -> None:
    run = (await shop.create(Run.APPLY, scope_id="s", rules_hash="r")).run
    for method, request in (
        (shop.runs().CancelRun, pb.CancelRunRequest(project_id=shop.project, run_id=run.id)),
        (shop.runs().RetryRun, pb.RetryRunRequest(project_id=shop.project, run_id=run.id)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(request, **shop.auth("EDITOR"))
        assert refusal(caught.value).reason == "ROLE_TOO_LOW"
    await shop.ended(run)


async def test_a_cancel_works_while_no_executor_lives_and_has_no_effects(lonely: Shop, openai: OpenAIServer) -> None:
    shop = lonely
    ids = await shop.stock(3)
    preview = await shop.preview()
    started = await running(shop, openai, playbook_id=DESCRIPTIONS)
    shop.stack.executors[0].kill()
    openai.behave()
    keys = {"scope_id": preview.scope_id, "rules_hash": preview.rules_hash}
    queued = [(await shop.create(Run.APPLY, idempotency_key=f"{n}", **keys)).run for n in range(5)]

    cancelled = [await shop.cancel(run.id) for run in queued]
    await shop.cancel(started.id)
    assert {run.status for run in cancelled} == {Run.CANCELLED}
    shop.stack.executors[0].start()
    shop.stack.executors[0].wait_ready()

    assert (await shop.ended(await shop.get(started.id))).status == Run.CANCELLED
    with psycopg.connect(shop.stack.postgres.url(database="playbook_runs"), autocommit=True) as database:

        def statuses() -> set[str]:
            rows = database.execute(
                "SELECT status FROM executor.executions WHERE run_id = ANY(%s::uuid[])", [[run.id for run in queued]]
            )
            return {row[0] for row in rows}

        await eventually(lambda: statuses() == {"CANCELLED"})
    products = await shop.products()
    assert [products[product_id].seo_title for product_id in ids] == [""] * 3


async def test_a_deadline_passes_while_no_executor_lives(lonely: Shop) -> None:
    shop = lonely
    await shop.stock(1)
    shop.stack.executors[0].kill()
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(deadline_seconds=1))).run
    ended = await shop.ended(run, timeout=40)
    assert (ended.status, ended.error_code, ended.attempt) == (Run.FAILED, "RUN_DEADLINE_EXCEEDED", 0)
    shop.stack.executors[0].start()
    shop.stack.executors[0].wait_ready()
    assert (await shop.get(run.id)) == ended


async def test_a_run_past_its_deadline_fails_and_keeps_nothing(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(2)
    openai.behave(Behaviour(delay_seconds=1.5))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(deadline_seconds=1))).run
    assert run.meta.deadline_seconds == 1

    ended = await shop.ended(run)

    assert (ended.status, ended.error_code, ended.draft_id) == (Run.FAILED, "RUN_DEADLINE_EXCEEDED", "")
    assert await shop.ai_used_today() == 0


async def test_a_retry_asks_for_the_same_once(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(2)
    openai.behave(Behaviour(status=401))
    failed = await shop.preview(sample=2, idempotency_key="mine")
    assert failed.status == Run.FAILED
    openai.behave()

    first = await shop.retry(failed.id)
    second = await shop.retry(failed.id, replica=1)

    assert (first.created, second.created) == (True, False)
    assert first.run.id == second.run.id
    assert first.run.retry_of == failed.id
    assert (first.run.meta, first.run.run_type, first.run.idempotency_key) == (failed.meta, failed.run_type, "mine")
    assert first.run.created_by_user_id == "retrier"
    assert (await shop.ended(first.run)).status == Run.SUCCEEDED
    again = await shop.create(Run.PREVIEW_GENERATE, idempotency_key="mine", meta=RunMeta(sample_size=2))
    assert (again.run.id, again.created) == (first.run.id, False), "the same request finds the retry"


async def test_a_run_has_one_retry_under_whichever_key_and_the_retry_another(shop: Shop) -> None:
    newest = await shop.ended((await shop.create(Run.APPLY, scope_id="s", rules_hash="r")).run)
    chain = [newest.id]
    for keys in (("a", "b", None), (None, "c", "a")):
        first = await shop.retry(newest.id, key=keys[0])
        assert (first.created, first.run.retry_of) == (True, newest.id)
        assert first.run.idempotency_key == "a"  # the second retry's by inheritance
        ended = await shop.ended(first.run)
        assert ended.status == Run.STALE
        for replica, key in enumerate(keys[1:]):
            again = await shop.retry(newest.id, key=key, replica=replica)
            assert (again.run, again.created) == (ended, False)
        newest = ended
        chain.append(newest.id)
    runs = (await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth())).runs
    assert [run.id for run in reversed(runs)] == chain


async def test_a_failed_preview_is_retried_once_however_often_it_is_asked_for(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(1)
    openai.behave(Behaviour(status=401))
    failed = await shop.preview()
    first = await shop.retry(failed.id)
    again_failed = await shop.ended(first.run)
    openai.behave()
    for replica in (0, 1):
        again = await shop.retry(failed.id, replica=replica)
        assert (again.run, again.created) == (again_failed, False)
    last = await shop.retry(again_failed.id)
    assert (await shop.ended(last.run)).status == Run.SUCCEEDED
    assert (await shop.retry(again_failed.id)).run.id == last.run.id


@pytest.mark.parametrize("which", ["succeeded", "running", "unknown", "foreign"])
async def test_what_cannot_be_retried(
    shop: Shop, new_shop: Callable[[], Shop], openai: OpenAIServer, which: str
) -> None:
    await shop.stock(1)
    caller = shop
    if which == "running":
        run = await running(shop, openai, delay=2)
    else:
        run = await shop.preview()
    if which == "foreign":
        caller = new_shop()
    run_id = "01890000-0000-7000-8000-000000000000" if which == "unknown" else run.id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.retry(run_id)
    expected = {"unknown": "RUN_NOT_FOUND", "foreign": "RUN_NOT_FOUND"}.get(which, "RUN_NOT_RETRYABLE")
    assert refusal(caught.value).reason == expected
    if which == "running":
        await shop.cancel(run.id)
