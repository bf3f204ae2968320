"""Messages at the broker of a running stack that no service sent, or sent before."""

import asyncio
from uuid import uuid4

import grpc
import pytest
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch, RunJob, RunJobBatch
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from devstack.stack import Stack
from runs_service import messages
from servicekit.broker import VERSION_HEADER, MessageSigner
from tests.support.broker import SIGNER, publish_raw, take_all
from tests.support.executions import traces
from tests.support.shop import TITLES, Shop, refusal
from tests.support.waiting import eventually

JOBS, EVENTS = "playbook-runs.jobs", "playbook-runs.events"


@pytest.fixture
def url(stack: Stack) -> str:
    assert stack.valkey is not None
    return stack.valkey.url


@pytest.fixture
def signer(stack: Stack) -> MessageSigner:
    return MessageSigner([stack.secrets.jwt_secret])


async def dead_letters(url: str, queue: str, count: int) -> list[bytes]:
    """Return so many dead letters, once they are there."""
    found: list[bytes] = []

    async def there() -> bool:
        found.extend(body for body, _ in await asyncio.to_thread(take_all, url, f"{queue}.dead"))
        return len(found) >= count

    await eventually(there)
    return found


def apply_of(run: Run) -> RunJob:
    """Return a job that applies the draft of `run`."""
    return RunJob(
        run_id=str(uuid4()),
        project_id=run.project_id,
        playbook_id=TITLES,
        run_type=Run.APPLY,
        scope_id=run.scope_id,
        rules_hash=run.rules_hash,
    )


async def test_a_forged_apply_writes_nothing_and_a_forged_event_ends_nothing(shop: Shop, url: str) -> None:
    await shop.stock(3)
    drafted = await shop.draft_run(await shop.preview())
    queued = (await shop.create(Run.PREVIEW_GENERATE, idempotency_key="real")).run
    end = RunEvent(run_id=queued.id, project_id=shop.project, number=1_000, status=Run.FAILED, error_code="FORGED")
    jobs = [RunJobBatch(jobs=[apply_of(drafted)]).SerializeToString() for _ in range(2)]
    events = [RunEventBatch(events=[end]).SerializeToString()] * 2
    for queue, (unsigned, strange) in ((JOBS, jobs), (EVENTS, events)):
        publish_raw(url, queue, unsigned, {VERSION_HEADER: 1})
        publish_raw(url, queue, strange, SIGNER.headers(queue, 1, strange))
    assert sorted(await dead_letters(url, JOBS, 2)) == sorted(jobs)
    assert await dead_letters(url, EVENTS, 2) == events
    ended = await shop.ended(queued)
    assert (ended.status, ended.error_code) == (Run.SUCCEEDED, "")
    assert {product.seo_title for product in (await shop.products()).values()} == {""}


async def test_a_genuine_job_and_a_genuine_event_that_are_sent_again_change_nothing(
    shop: Shop, url: str, signer: MessageSigner
) -> None:
    await shop.stock(3)
    applied = await shop.apply(await shop.draft_run(await shop.preview()))
    await shop.put(id=shop.product_id(1), title="Written since", seo_title="By hand")
    runs = await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth())
    before = traces(shop)

    job = RunJobBatch(jobs=[messages.job(applied, "r")]).SerializeToString()
    request = executor.ReconcileRunsRequest(run_ids=[applied.id])
    events = (await shop.executor.ReconcileRuns(request, **shop.auth("SERVICE", "*"))).events
    event = RunEventBatch(events=events).SerializeToString()
    for _ in range(3):
        publish_raw(url, JOBS, job, signer.headers(JOBS, 1, job))
        publish_raw(url, EVENTS, event, signer.headers(EVENTS, 1, event))
    # What is put aside comes after them, so they have been handled by both.
    for queue in (JOBS, EVENTS):
        for _ in range(4):
            publish_raw(url, queue, b"unsigned", {})
        await dead_letters(url, queue, 4)

    assert traces(shop) == before
    assert await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth()) == runs


async def test_an_event_of_another_project_changes_no_run(shop: Shop, url: str, signer: MessageSigner) -> None:
    await shop.stock(1)
    run = await shop.preview()
    new = (await shop.create(Run.PREVIEW_GENERATE, idempotency_key="mixed")).run
    events = [
        RunEvent(run_id=one.id, project_id="another", number=10**9, status=Run.FAILED, error_code="MIXED")
        for one in (run, new)
    ]
    body = RunEventBatch(events=events).SerializeToString()
    publish_raw(url, EVENTS, body, signer.headers(EVENTS, 1, body))
    assert (await shop.ended(new)).status == Run.SUCCEEDED
    assert sorted(await dead_letters(url, EVENTS, 2)) == sorted(
        RunEventBatch(events=[event]).SerializeToString() for event in events
    )
    assert await shop.get(run.id) == run


async def test_the_executor_mixes_no_runs_of_two_projects(shop: Shop, url: str, signer: MessageSigner) -> None:
    await shop.stock(2)
    run = await shop.preview()
    before = traces(shop)
    job = RunJob(run_id=run.id, project_id="another", playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)
    service = shop.auth("SERVICE", "*")

    with pytest.raises(grpc.aio.AioRpcError) as executing:
        await shop.executor.ExecuteRun(executor.ExecuteRunRequest(job=job), **service).read()
    unknown = RunJob(run_id=str(uuid4()), project_id="another", playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)
    with pytest.raises(grpc.aio.AioRpcError) as cancelling:
        await shop.executor.CancelRuns(executor.CancelRunsRequest(jobs=[unknown, job]), **service)
    body = RunJobBatch(jobs=[job]).SerializeToString()
    publish_raw(url, JOBS, body, signer.headers(JOBS, 1, body))

    assert await dead_letters(url, JOBS, 1) == [body]
    for refused, field in ((executing, "job.run_id"), (cancelling, "jobs[1].run_id")):
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert list(refusal(refused.value).fields) == [field]
    assert traces(shop) == before
    answer = await shop.executor.ReconcileRuns(
        executor.ReconcileRunsRequest(run_ids=[run.id, unknown.run_id]), **service
    )
    assert [(event.run_id, event.project_id) for event in answer.events] == [(run.id, shop.project)]
    assert list(answer.unknown_run_ids) == [unknown.run_id]  # the refused cancel left nothing behind
