"""Scenario 3: a service dies by SIGKILL at each point of a run's way, and is started again. Nothing is lost, nothing
happens twice."""

import time
from dataclasses import dataclass

import grpc
import psycopg
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from devstack.services import Service
from servicekit.failpoints import VARIABLE, FailPoint
from tests.faults.sizes import FULL, overbooked
from tests.support.audit import audit
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import NewShop, Shop
from tests.support.waiting import eventually

LEASE = 2.0  # seconds
PRODUCTS = 12
BATCH = 2  # products a request
AT_ONCE = 2  # requests


@dataclass(frozen=True)
class Death:
    """A death at `point`, the `times`-th time it is reached, in a run of `run_type`, and which attempt ends the run."""

    point: FailPoint
    run_type: Run.Type.ValueType
    attempt: int
    times: int = 1

    def __str__(self) -> str:
        return f"{self.point}:{self.times}"


DEATHS = [
    Death(FailPoint.RUNS_AFTER_COMMIT, Run.PREVIEW_GENERATE, attempt=1),
    Death(FailPoint.RUNS_AFTER_PUBLISH, Run.PREVIEW_GENERATE, attempt=1),
    Death(FailPoint.RUNS_IN_CHANGE, Run.DRAFT_GENERATE, attempt=1),
    Death(FailPoint.RUNS_BEFORE_ACK, Run.APPLY, attempt=1),
    Death(FailPoint.EXECUTOR_AFTER_TAKE, Run.PREVIEW_GENERATE, attempt=1),
    Death(FailPoint.EXECUTOR_AFTER_INSERT, Run.PREVIEW_GENERATE, attempt=1),
    Death(FailPoint.EXECUTOR_BEFORE_ACK, Run.PREVIEW_GENERATE, attempt=1),
    Death(FailPoint.EXECUTOR_AFTER_CLAIM, Run.PREVIEW_GENERATE, attempt=2),
    Death(FailPoint.EXECUTOR_BEFORE_AI_REQUEST, Run.DRAFT_GENERATE, attempt=2, times=4),
    Death(FailPoint.EXECUTOR_AFTER_AI_REPLY, Run.DRAFT_GENERATE, attempt=2, times=4),
    Death(FailPoint.EXECUTOR_IN_DRAFT, Run.DRAFT_GENERATE, attempt=2),
    Death(FailPoint.EXECUTOR_BEFORE_COMMIT, Run.APPLY, attempt=2),
    Death(FailPoint.EXECUTOR_AFTER_COMMIT, Run.APPLY, attempt=1),
    Death(FailPoint.EXECUTOR_BEFORE_PUBLISH, Run.APPLY, attempt=1, times=2),  # the first tells that it runs
    Death(FailPoint.EXECUTOR_AFTER_PUBLISH, Run.APPLY, attempt=1, times=2),
]


# Without FAULTS=full: those between a commit, or a payment, and what must follow it.
BOUNDED = {
    FailPoint.RUNS_AFTER_COMMIT,
    FailPoint.RUNS_IN_CHANGE,
    FailPoint.EXECUTOR_AFTER_AI_REPLY,
    FailPoint.EXECUTOR_IN_DRAFT,
    FailPoint.EXECUTOR_AFTER_COMMIT,
}


STACK = {
    "env": {
        "EXECUTOR_LEASE_SECONDS": str(LEASE),
        "RUNS_RECONCILE_SECONDS": "1",
        "AI_BATCH_SIZE": str(BATCH),
        "AI_CONCURRENCY": str(AT_ONCE),
    }
}


@pytest.fixture
async def shop(new_shop: NewShop) -> Shop:
    shop = new_shop()
    await eventually(lambda: answers(shop))
    await shop.stock(PRODUCTS)
    return shop


async def answers(shop: Shop) -> bool:
    try:
        await shop.open()
        await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth())
    except grpc.aio.AioRpcError:  # the channels reconnect when they find the time
        return False
    return True


def test_every_point_has_its_death() -> None:
    assert {death.point for death in DEATHS} == set(FailPoint)


@pytest.mark.parametrize("death", [death for death in DEATHS if FULL or death.point in BOUNDED], ids=str)
async def test_a_run_survives_a_death_at(death: Death, shop: Shop, openai: OpenAIServer) -> None:
    service = shop.stack.runs[0] if death.point.startswith("runs.") else shop.stack.executors[0]
    request = await prepared(shop, death.run_type)
    stored = suggestions(shop)
    openai.reset()
    openai.behave(Behaviour(delay_seconds=0.05))

    restart(service, {VARIABLE: str(death)})
    await eventually(lambda: answers(shop))
    answered = await create(shop, request)
    await eventually(lambda: service.died, timeout=15)
    assert "was killed by SIGKILL" in service.death_notice()
    assert f"fail point {death.point} is reached" in service.log.read_text()
    in_flight = sum(asked(shop, openai).values()) - (suggestions(shop) - stored) if death.attempt > 1 else 0

    restart(service)
    back = time.monotonic()
    await eventually(lambda: answers(shop))
    again = await shop.runs().CreateRun(request, **shop.auth())
    assert not again.created
    assert answered is None or again.run.id == answered.run.id
    run = await shop.ended(again.run)
    assert time.monotonic() - back < (LEASE + 10) * overbooked()

    assert run.status == Run.SUCCEEDED, run
    assert run.attempt == death.attempt
    # What was in flight is asked for again, and nothing else is: requests, and answers that were not stored yet.
    repeated = {product for product, times in asked(shop, openai).items() if times > 1}
    assert len(repeated) == in_flight <= BATCH * 2 * AT_ONCE
    assert set(asked(shop, openai).values()) <= {1, 2}
    await check_effects(shop, run)
    await audit(shop.stack, unacknowledged=len(DEATHS))


def restart(service: Service, env: dict[str, str] | None = None) -> None:
    service.kill()
    plain = {name: value for name, value in service.env.items() if name != VARIABLE}
    service.env = plain | (env or {})
    service.start()
    service.wait_ready()


async def prepared(shop: Shop, run_type: Run.Type.ValueType) -> pb.CreateRunRequest:
    """Return the request for a run, after the runs that have to come before it."""
    request = pb.CreateRunRequest(
        project_id=shop.project, playbook_id="missing_seo_title", run_type=run_type, idempotency_key="once"
    )
    if run_type == Run.PREVIEW_GENERATE:
        request.meta.CopyFrom(RunMeta(sample_size=PRODUCTS))
        return request
    preview = await shop.preview(sample=1 if run_type == Run.DRAFT_GENERATE else PRODUCTS)
    request.scope_id, request.rules_hash = preview.scope_id, preview.rules_hash
    return request


async def create(shop: Shop, request: pb.CreateRunRequest) -> pb.CreateRunResponse | None:
    """Create a run; return the answer, or None when it got lost."""
    try:
        return await shop.runs().CreateRun(request, **shop.auth())
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def suggestions(shop: Shop) -> int:
    """Return how many suggestions are stored."""
    with psycopg.connect(shop.stack.postgres.url(database="playbook_runs")) as database:
        row = database.execute("SELECT count(*) FROM executor.suggestions WHERE project_id = %s", [shop.project])
        return int(row.fetchone()[0])  # type: ignore[index]


def asked(shop: Shop, openai: OpenAIServer) -> dict[str, int]:
    return {product: times for product, times in openai.stats().asked.items() if product.startswith(shop.project)}


async def check_effects(shop: Shop, run: Run) -> None:
    products = await shop.products()
    if run.run_type == Run.APPLY:
        assert all(product.seo_title for product in products.values())
        assert len(await shop.items(run)) == run.result.updated == PRODUCTS
    else:
        draft = await shop.draft(run.draft_id)
        assert len(draft.items) == run.result.draft_generated == PRODUCTS
        assert not any(product.seo_title for product in products.values())
