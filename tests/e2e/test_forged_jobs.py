"""A job that a stranger puts on the queue writes nothing, and the runs of others go on."""

import asyncio
from datetime import UTC, datetime, timedelta

from playbooks.executor.v1.catalog_service_pb2 import ListProductsRequest
from playbooks.executor.v1.job_pb2 import RunEventBatch, RunJob, RunJobBatch
from playbooks.runs.v1.run_pb2 import Run

from servicekit.broker import VERSION_HEADER, MessageSigner
from servicekit.ids import uuid7
from tests.support.broker import publish_raw, signed, take_all
from tests.support.runs import event
from tests.support.shop import TITLES, Shop
from tests.support.waiting import eventually

STRANGER = MessageSigner(["a secret that a stranger made up, 32 or more"])


async def test_a_forged_apply_writes_nothing_and_a_forged_event_ends_nothing(shop: Shop) -> None:
    assert shop.stack.valkey is not None
    url = shop.stack.valkey.url
    await shop.stock(2)
    preview = await shop.preview()
    queued = await shop.create(Run.PREVIEW_GENERATE, scope_id=preview.scope_id, idempotency_key="real")
    forged = RunJob(
        run_id=uuid7(),
        project_id=shop.project,
        playbook_id=TITLES,
        run_type=Run.APPLY,
        scope_id=preview.scope_id,
        rules_hash=preview.rules_hash,
    )
    forged.created_at.FromDatetime(datetime.now(UTC))
    forged.deadline.FromDatetime(datetime.now(UTC) + timedelta(minutes=5))
    job = RunJobBatch(jobs=[forged]).SerializeToString()
    end = event(queued.run.id, 1_000, Run.FAILED, project_id=shop.project, error_code="FORGED")
    told = RunEventBatch(events=[end]).SerializeToString()
    for queue, body in (("playbook-runs.jobs", job), ("playbook-runs.events", told)):
        for headers in ({VERSION_HEADER: 1}, signed(STRANGER, queue, 1, body)):
            await asyncio.to_thread(publish_raw, url, queue, body, headers)
    letters: list[bytes] = []

    async def refused() -> bool:
        for queue in ("playbook-runs.jobs.dead", "playbook-runs.events.dead"):
            letters.extend(body for body, _ in await asyncio.to_thread(take_all, url, queue))
        return len(letters) >= 4

    await eventually(refused)
    assert sorted(letters) == sorted([job, told] * 2)
    ended = await shop.ended(queued.run)
    assert (ended.status, ended.error_code) == (Run.SUCCEEDED, "")
    listed = await shop.catalog.ListProducts(ListProductsRequest(project_id=shop.project), **shop.auth())
    assert [product.seo_title for product in listed.products] == ["", ""]
