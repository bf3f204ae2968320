"""EC-001 to EC-003: no broker, many callers at once, a world that changes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from devstack.stack import Stack
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Shop, logged, open_shop, refusal, scope_of


@pytest.fixture(scope="module", params=["no broker", "queue processors off"])
async def inline_shop(
    request: pytest.FixtureRequest, new_stack: Callable[..., Stack], stack_env: dict[str, str]
) -> AsyncIterator[Shop]:
    has_broker = request.param == "queue processors off"
    env = stack_env | ({"ENABLE_QUEUE_PROCESSORS": "false"} if has_broker else {})
    with new_stack(broker=has_broker, http=True, env=env) as stack:
        async with open_shop(stack) as shop:
            yield shop


async def test_EC_001_without_a_queue_create_answers_with_the_final_status(inline_shop: Shop) -> None:
    shop = inline_shop
    await shop.stock(4)

    reply = await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=2))

    assert reply.created
    assert reply.run.status == Run.SUCCEEDED, reply.run
    assert logged(shop.stack, "[AutomationPlaybookRunsService] Queue not available, executing inline")
    history = await shop.watch(reply.run.id, after=0)
    assert [message.run.sequence for message in history] == list(range(1, reply.run.sequence + 1))
    assert [message.run.status for message in history][:2] == [Run.QUEUED, Run.RUNNING]
    assert history[-1].run == reply.run == await shop.get(reply.run.id)
    applied = await shop.apply(reply.run)
    assert (applied.status, applied.result.updated) == (Run.SUCCEEDED, 2)


async def test_WEB_EC_001_without_a_queue_the_answer_has_the_final_status(inline_shop: Shop) -> None:
    await inline_shop.stock(2, prefix="web")
    async with inline_shop.http() as http:
        answer = await http.post("missing_seo_description/runs", json={"runType": "PREVIEW_GENERATE"})
    assert (answer.status_code, answer.json()["status"]) == (201, "SUCCEEDED")


async def test_EC_001_a_caller_that_gives_up_does_not_stop_an_inline_run(
    inline_shop: Shop, openai: OpenAIServer
) -> None:
    shop = inline_shop
    await shop.stock(1, prefix="slow")
    openai.behave(Behaviour(delay_seconds=1.0))
    request = pb.CreateRunRequest(
        project_id=shop.project,
        playbook_id="missing_seo_description",
        run_type=Run.PREVIEW_GENERATE,
        idempotency_key="gave up",
    )
    creating = shop.runs().CreateRun(request, **shop.auth())
    await openai.wait_for(lambda stats: stats.in_flight > 0)
    creating.cancel()

    reply = await shop.runs().CreateRun(request, **shop.auth())

    assert not reply.created
    assert (await shop.ended(reply.run)).status == Run.SUCCEEDED


async def test_EC_002_two_hundred_callers_with_one_key_get_one_run(shop: Shop) -> None:
    await shop.stock(1)

    replies = await asyncio.gather(
        *(shop.create(Run.PREVIEW_GENERATE, idempotency_key="rush", replica=number % 2) for number in range(200))
    )

    assert len({reply.run.id for reply in replies}) == 1
    assert sum(reply.created for reply in replies) == 1
    listed = await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth())
    assert len(listed.runs) == 1


async def test_EC_002_a_different_request_under_the_key_learns_whose_it_is(shop: Shop) -> None:
    await shop.stock(1)

    async def call(number: int) -> pb.CreateRunResponse | grpc.aio.AioRpcError:
        meta = RunMeta(sample_size=7 if number == 100 else 3)
        try:
            return await shop.create(Run.PREVIEW_GENERATE, idempotency_key="clash", meta=meta, replica=number % 2)
        except grpc.aio.AioRpcError as error:
            return error

    answers = await asyncio.gather(*(call(number) for number in range(200)))

    replies = [answer for answer in answers if isinstance(answer, pb.CreateRunResponse)]
    refused = [refusal(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len({reply.run.id for reply in replies}) == 1
    # Whichever came first has the key: the one odd request, or the 199 others.
    assert len(replies) in (1, 199)
    assert len(refused) == 200 - len(replies)
    assert {(r.code, r.reason, r.domain, r.metadata["run_id"]) for r in refused} == {
        (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED", "playbook-runs", replies[0].run.id)
    }


async def test_EC_002_defaults_written_out_are_the_same_request(shop: Shop) -> None:
    await shop.stock(1)
    first = await shop.create(Run.PREVIEW_GENERATE, idempotency_key="same")
    second = await shop.create(Run.PREVIEW_GENERATE, idempotency_key="same", meta=RunMeta(sample_size=3))
    assert first.run.id == second.run.id


async def test_EC_002_a_key_is_free_again_after_a_run_that_went_nowhere(shop: Shop) -> None:
    first = await shop.create(Run.APPLY, idempotency_key="again", scope_id="gone", rules_hash="gone")
    assert (await shop.ended(first.run)).status == Run.STALE
    second = await shop.create(Run.APPLY, idempotency_key="again", scope_id="gone too", rules_hash="gone")
    assert second.created
    assert second.run.id != first.run.id


async def test_EC_002_two_hundred_attempts_at_one_preview_make_one_run_and_so_does_one_later(
    shop: Shop,
) -> None:
    await shop.stock(1)
    call = {"request_id": str(uuid4())}

    replies = await asyncio.gather(
        *(shop.create(Run.PREVIEW_GENERATE, replica=number % 2, **call) for number in range(200))
    )

    assert len({reply.run.id for reply in replies}) == 1
    assert all(reply.created for reply in replies), "each attempt gets the first answer"
    ended = await shop.ended(replies[0].run)
    assert ended.status == Run.SUCCEEDED
    again = await shop.create(Run.PREVIEW_GENERATE, replica=1, **call)
    assert (again.run, again.created) == (ended, True)
    request = pb.PreviewPlaybookRequest(project_id=shop.project, playbook_id=TITLES, **call)
    waited = await shop.runs().PreviewPlaybook(request, **shop.auth())
    assert (waited.run, len(waited.draft.items)) == (ended, 1)
    following = await shop.create(Run.PREVIEW_GENERATE)
    assert following.created, "without the request_id a preview that has ended makes way"
    await shop.ended(following.run)


@pytest.mark.parametrize("change", ["added", "deleted", "filled"])
@pytest.mark.parametrize("run_type", [Run.APPLY, Run.DRAFT_GENERATE])
async def test_EC_003_a_scope_that_changed_makes_the_run_stale(
    shop: Shop, openai: OpenAIServer, change: str, run_type: Run.Type.ValueType
) -> None:
    ids = await shop.stock(3)
    preview = await shop.preview()
    if change == "added":
        await shop.put(id=shop.product_id(4), title="Thing 4")
        ids.append(shop.product_id(4))
    elif change == "deleted":
        await shop.delete(ids.pop())
    else:
        await shop.put(id=ids.pop(), title="Filled", seo_title="By hand")
    before = await shop.products()
    calls = openai.stats().requests

    run = await shop.ended((await shop.create(run_type, scope_id=preview.scope_id, rules_hash=preview.rules_hash)).run)

    assert (run.status, run.error_code) == (Run.STALE, "PLAYBOOK_SCOPE_INVALID")
    assert preview.scope_id in run.error_message
    assert scope_of(shop.project, preview.playbook_id, ids) in run.error_message
    assert await shop.products() == before
    assert openai.stats().requests == calls


async def test_EC_003_no_affected_products_is_a_success_with_zeros(shop: Shop) -> None:
    await shop.stock(2, seo_title="There")
    run = await shop.ended(
        (await shop.create(Run.APPLY, scope_id=scope_of(shop.project, "missing_seo_title", []), rules_hash="any")).run
    )
    assert (run.status, run.ai_used, run.result.total_affected, run.result.updated) == (Run.SUCCEEDED, False, 0, 0)
    assert run.HasField("result")
