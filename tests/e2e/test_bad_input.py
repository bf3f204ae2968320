"""BAD-001: each RPC with input that is not as it must be: INVALID_ARGUMENT naming the field, nothing stored."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.protobuf.message import Message
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1 import runs_service_pb2 as runs
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta

from devstack.stack import Stack
from tests.support.shop import DEADLINE, TITLES, Shop, refusal

ID = "01890000-0000-7000-8000-000000000000"
P = "some-project"
LONG = "x" * 300


def create(**fields: Any) -> runs.CreateRunRequest:
    return runs.CreateRunRequest(**{"project_id": P, "playbook_id": TITLES, "run_type": Run.PREVIEW_GENERATE, **fields})


def rules(**fields: Any) -> runs.CreateRunRequest:
    return create(meta=RunMeta(rules=PlaybookRules(**fields)))


def product(**fields: Any) -> catalog.PutProductsRequest:
    return catalog.PutProductsRequest(project_id=P, products=[catalog.Product(**{"id": "1", **fields})])


# RPC, request, the field that must be named
BAD: list[tuple[str, Message, str]] = [
    ("CreateRun", create(project_id=""), "project_id"),
    ("CreateRun", create(project_id=LONG), "project_id"),
    ("CreateRun", create(project_id="a\0b"), "project_id"),
    ("CreateRun", create(playbook_id=""), "playbook_id"),
    ("CreateRun", create(playbook_id="missing_everything"), "playbook_id"),
    ("CreateRun", create(run_type=Run.TYPE_UNSPECIFIED), "run_type"),
    ("CreateRun", create(run_type=99), "run_type"),
    ("CreateRun", create(run_type=Run.APPLY, rules_hash="r"), "scope_id"),
    ("CreateRun", create(run_type=Run.DRAFT_GENERATE, scope_id="s"), "rules_hash"),
    ("CreateRun", create(scope_id=LONG), "scope_id"),
    ("CreateRun", create(rules_hash="\0"), "rules_hash"),
    ("CreateRun", create(idempotency_key=""), "idempotency_key"),
    ("CreateRun", create(idempotency_key="k" * 256), "idempotency_key"),
    ("CreateRun", create(idempotency_key="k\0"), "idempotency_key"),
    ("CreateRun", create(request_id=""), "request_id"),
    ("CreateRun", create(request_id="again"), "request_id"),
    ("CreateRun", create(request_id=str(UUID(int=0))), "request_id"),
    ("CreateRun", create(meta=RunMeta(sample_size=0)), "meta.sample_size"),
    ("CreateRun", create(meta=RunMeta(sample_size=51)), "meta.sample_size"),
    ("CreateRun", create(meta=RunMeta(sample_size=-1)), "meta.sample_size"),
    ("CreateRun", rules(max_length=-1), "meta.rules.max_length"),
    ("CreateRun", rules(prefix="p" * 501), "meta.rules.prefix"),
    ("CreateRun", rules(suffix="\0"), "meta.rules.suffix"),
    ("CreateRun", rules(mode="not a mode"), "meta.rules.mode"),
    ("CreateRun", rules(forbidden_phrases=["fine", ""]), "meta.rules.forbidden_phrases[1]"),
    ("CreateRun", rules(forbidden_phrases=["a\0"]), "meta.rules.forbidden_phrases[0]"),
    ("CreateRun", rules(forbidden_phrases=["a"] * 101), "meta.rules.forbidden_phrases"),
    ("CreateRun", rules(find_replace=PlaybookRules.FindReplace(find="f" * 1001)), "meta.rules.find_replace.find"),
    ("GetRun", runs.GetRunRequest(project_id=P, run_id="not-a-uuid"), "run_id"),
    ("GetRun", runs.GetRunRequest(project_id=P), "run_id"),
    ("GetRun", runs.GetRunRequest(run_id=ID), "project_id"),
    ("ListRuns", runs.ListRunsRequest(), "project_id"),
    ("ListRuns", runs.ListRunsRequest(project_id=P, limit=-1), "limit"),
    ("ListRuns", runs.ListRunsRequest(project_id=P, offset=-1), "offset"),
    ("ListRuns", runs.ListRunsRequest(project_id=P, playbook_id="x"), "playbook_id"),
    ("ListRuns", runs.ListRunsRequest(project_id=P, status=77), "status"),  # type: ignore[arg-type]
    ("ListRuns", runs.ListRunsRequest(project_id=P, run_type=77), "run_type"),  # type: ignore[arg-type]
    ("ListRuns", runs.ListRunsRequest(project_id=P, page_token="made-up"), "page_token"),
    ("ListRuns", runs.ListRunsRequest(project_id=P, page_token="ü"), "page_token"),
    ("ListRuns", runs.ListRunsRequest(project_id=P, retry_of="x"), "retry_of"),
    ("WatchRun", runs.WatchRunRequest(project_id=P, run_id="1234"), "run_id"),
    ("WatchRun", runs.WatchRunRequest(project_id=P, run_id=ID, after_sequence=-1), "after_sequence"),
    ("WatchRuns", runs.WatchRunsRequest(project_id=P, playbook_id="x"), "playbook_id"),
    ("WatchRuns", runs.WatchRunsRequest(project_id=P, run_type=77), "run_type"),  # type: ignore[arg-type]
    ("WatchRuns", runs.WatchRunsRequest(project_id=P, after="made-up"), "after"),
    ("WatchRuns", runs.WatchRunsRequest(project_id=P, after="x" * 16_385), "after"),
    ("CreateRun", create(meta=RunMeta(deadline_seconds=0)), "meta.deadline_seconds"),
    ("CreateRun", create(meta=RunMeta(deadline_seconds=86_401)), "meta.deadline_seconds"),
    ("GetUsage", runs.GetUsageRequest(), "project_id"),
    ("GetUsage", runs.GetUsageRequest(**{"project_id": P, "from": "yesterday"}), "from"),
    ("GetUsage", runs.GetUsageRequest(project_id=P, to="2026-02-30"), "to"),
    ("PurgeProject", runs.PurgeProjectRequest(), "project_id"),
    ("DeleteProject", executor.DeleteProjectRequest(), "project_id"),
    ("CancelRun", runs.CancelRunRequest(project_id=P, run_id="x"), "run_id"),
    ("RetryRun", runs.RetryRunRequest(project_id=P, run_id="x"), "run_id"),
    ("RetryRun", runs.RetryRunRequest(project_id=P, run_id=ID, idempotency_key=""), "idempotency_key"),
    ("CancelRuns", executor.CancelRunsRequest(), "jobs"),
    ("CancelRuns", executor.CancelRunsRequest(jobs=[RunJob(run_id="x", project_id=P)]), "jobs[0].run_id"),
    ("PreviewPlaybook", runs.PreviewPlaybookRequest(project_id=P, playbook_id="x"), "playbook_id"),
    (
        "PreviewPlaybook",
        runs.PreviewPlaybookRequest(project_id=P, playbook_id=TITLES, request_id=""),
        "request_id",
    ),
    (
        "ApplyPlaybook",
        runs.ApplyPlaybookRequest(project_id=P, playbook_id=TITLES, scope_id="s", rules_hash="r", request_id="x"),
        "request_id",
    ),
    (
        "PreviewPlaybook",
        runs.PreviewPlaybookRequest(project_id=P, playbook_id=TITLES, meta=RunMeta(sample_size=1000)),
        "meta.sample_size",
    ),
    ("ApplyPlaybook", runs.ApplyPlaybookRequest(project_id=P, playbook_id=TITLES, rules_hash="r"), "scope_id"),
    ("ApplyPlaybook", runs.ApplyPlaybookRequest(project_id=P, playbook_id=TITLES, scope_id="s"), "rules_hash"),
    ("ExecuteRun", executor.ExecuteRunRequest(), "job"),
    ("ExecuteRun", executor.ExecuteRunRequest(job=RunJob(run_id="x", project_id=P)), "job.run_id"),
    ("ReconcileRuns", executor.ReconcileRunsRequest(), "run_ids"),
    ("ReconcileRuns", executor.ReconcileRunsRequest(run_ids=[ID, "x"]), "run_ids[1]"),
    ("EstimatePlaybook", executor.EstimatePlaybookRequest(project_id=P), "playbook_id"),
    (
        "EstimatePlaybook",
        executor.EstimatePlaybookRequest(project_id=P, playbook_id=TITLES, rules=PlaybookRules(max_length=-5)),
        "rules.max_length",
    ),
    ("GetDraft", executor.GetDraftRequest(project_id=P, draft_id="x"), "draft_id"),
    ("GetDraft", executor.GetDraftRequest(project_id=P, draft_id=ID, limit=-1), "limit"),
    ("GetDraft", executor.GetDraftRequest(project_id=P, draft_id=ID, page_token="altered"), "page_token"),
    ("GetLatestDraft", executor.GetLatestDraftRequest(project_id=P, playbook_id="x"), "playbook_id"),
    ("GetLatestDraft", executor.GetLatestDraftRequest(project_id=P, playbook_id=TITLES, limit=-1), "limit"),
    ("ListRunItems", executor.ListRunItemsRequest(project_id=P, run_id="x"), "run_id"),
    ("ListRunItems", executor.ListRunItemsRequest(project_id=P, run_id=ID, limit=-1), "limit"),
    ("PutProject", catalog.PutProjectRequest(), "project_id"),
    ("PutProject", catalog.PutProjectRequest(project_id=P, plan=9), "plan"),  # type: ignore[arg-type]
    (
        "PutProject",
        catalog.PutProjectRequest(project_id=P, plan=catalog.Project.PRO, ai_daily_limit=-1),
        "ai_daily_limit",
    ),
    ("GetProject", catalog.GetProjectRequest(), "project_id"),
    ("PutProducts", catalog.PutProductsRequest(project_id=P), "products"),
    ("PutProducts", product(id=""), "products[0].id"),
    ("PutProducts", product(id="i" * 256), "products[0].id"),
    ("PutProducts", product(title="t" * 1001), "products[0].title"),
    ("PutProducts", product(description="\0"), "products[0].description"),
    (
        "PutProducts",
        catalog.PutProductsRequest(project_id=P, products=[catalog.Product(id="1"), catalog.Product(id="1")]),
        "products",
    ),
    ("ListProducts", catalog.ListProductsRequest(project_id=P, playbook_id="x"), "playbook_id"),
    ("ListProducts", catalog.ListProductsRequest(project_id=P, page_token="altered"), "page_token"),
    ("ListProducts", catalog.ListProductsRequest(project_id=P, product_ids=["i"] * 101), "product_ids"),
    ("ListProducts", catalog.ListProductsRequest(project_id=P, product_ids=[""]), "product_ids[0]"),
    ("DeleteProducts", catalog.DeleteProductsRequest(project_id=P), "product_ids"),
    ("DeleteProducts", catalog.DeleteProductsRequest(project_id=P, product_ids=[""]), "product_ids[0]"),
]


async def call(shop: Shop, rpc: str, request: Message) -> Any:
    stub = next(stub for stub in (shop.runs(), shop.executor, shop.catalog) if hasattr(stub, rpc))
    role = "SERVICE" if rpc in {"ExecuteRun", "ReconcileRuns", "CancelRuns"} else "OWNER"
    calling = getattr(stub, rpc)(request, metadata=shop.auth(role, project="*")["metadata"], timeout=DEADLINE)
    try:
        return await (calling.read() if hasattr(calling, "read") else calling)
    finally:
        calling.cancel()


def left(stack: Stack) -> list[int]:
    tables = ("runs.runs", "executor.executions", "executor.projects", "executor.products")
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        counts = [database.execute(f"SELECT count(*) FROM {table} WHERE {where(table)}").fetchone() for table in tables]
    return [count[0] for count in counts if count]


def where(table: str) -> str:
    return f"{'id' if table == 'executor.projects' else 'project_id'} LIKE '{P}%'"


@pytest.mark.parametrize(
    ("rpc", "request_", "field"), BAD, ids=[f"{rpc}-{field}-{n}" for n, (rpc, _, field) in enumerate(BAD)]
)
async def test_BAD_001_is_refused_with_the_fields_name(shop: Shop, rpc: str, request_: Message, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(shop, rpc, request_)
    answer = refusal(caught.value)
    assert (answer.code, answer.domain) == (grpc.StatusCode.INVALID_ARGUMENT, "playbook-runs"), answer
    assert answer.reason in {"VALIDATION_FAILED", "PAGE_TOKEN_INVALID"}
    assert field in answer.fields, answer
    assert answer.fields[field]


def test_BAD_001_covers_every_rpc() -> None:
    services = [
        runs.DESCRIPTOR.services_by_name["RunsService"],
        executor.DESCRIPTOR.services_by_name["ExecutorService"],
        catalog.DESCRIPTOR.services_by_name["CatalogService"],
    ]
    assert {method.name for service in services for method in service.methods} == {rpc for rpc, _, _ in BAD}


def test_BAD_001_stored_nothing(stack: Stack) -> None:
    assert left(stack) == [0, 0, 0, 0]


@pytest.mark.parametrize("path", ["", "meta", "meta.rules"])
async def test_BAD_001_a_field_this_server_does_not_know_is_refused(shop: Shop, path: str) -> None:
    request = rules(prefix="p")
    message: Any = request
    for name in filter(None, path.split(".")):
        message = getattr(message, name)
    message.MergeFromString(b"\x98\x06\x01")  # field 99, varint 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(shop, "CreateRun", request)
    assert f"{path}.#99".lstrip(".") in refusal(caught.value).fields


async def test_BAD_001_a_page_token_altered_anywhere_is_refused(shop: Shop) -> None:
    await shop.stock(3)
    for n in range(3):
        await shop.create(Run.APPLY, scope_id="none", rules_hash="none", idempotency_key=f"{n}")
    first = await shop.runs().ListRuns(runs.ListRunsRequest(project_id=shop.project, limit=1), **shop.auth())
    token = first.next_page_token

    async def page(token: str, **fields: Any) -> grpc.StatusCode:
        request = runs.ListRunsRequest(project_id=shop.project, limit=1, page_token=token, **fields)
        try:
            await shop.runs(1).ListRuns(request, **shop.auth())
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def altered(at: int) -> str:
        return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]

    assert await page(token) is grpc.StatusCode.OK
    refused: list[Callable[[], Any]] = [
        *(
            lambda i=i: page(token[:i] + ("A" if token[i] != "A" else "B") + token[i + 1 :])
            for i in range(0, len(token), 5)
        ),
        lambda: page(token[:-1]),
        lambda: page(token + "A"),
        lambda: page(token, status=Run.STALE),
        lambda: page(token, playbook_id=TITLES),
        lambda: page(token, offset=1),
    ]
    assert {await attempt() for attempt in refused} == {grpc.StatusCode.INVALID_ARGUMENT}


async def test_BAD_001_a_message_too_large_is_refused(shop: Shop) -> None:
    products = [catalog.Product(id=str(n), description="d" * 65_000) for n in range(300)]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(shop, "PutProducts", catalog.PutProductsRequest(project_id=P, products=products))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
