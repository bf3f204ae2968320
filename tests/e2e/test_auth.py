"""AUT-001: every RPC of each service, by every kind of caller."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import grpc
import jwt
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1 import runs_service_pb2 as runs
from playbooks.runs.v1.run_pb2 import Run

from tests.support.shop import DEADLINE, TITLES, Refusal, Shop, refusal

ID = "01890000-0000-7000-8000-000000000000"
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED

KEYS = {"playbook_id": TITLES, "scope_id": "s", "rules_hash": "r"}


class Rpc(NamedTuple):
    """An RPC, a request that it takes, and the least role it needs."""

    name: str
    request: Message
    role: str


CALLS = {
    "CreateRun preview": Rpc(
        "CreateRun", runs.CreateRunRequest(playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE), "EDITOR"
    ),
    "CreateRun draft": Rpc("CreateRun", runs.CreateRunRequest(run_type=Run.DRAFT_GENERATE, **KEYS), "EDITOR"),
    "CreateRun apply": Rpc("CreateRun", runs.CreateRunRequest(run_type=Run.APPLY, **KEYS), "OWNER"),
    "GetRun": Rpc("GetRun", runs.GetRunRequest(run_id=ID), "VIEWER"),
    "ListRuns": Rpc("ListRuns", runs.ListRunsRequest(), "VIEWER"),
    "WatchRun": Rpc("WatchRun", runs.WatchRunRequest(run_id=ID), "VIEWER"),
    "WatchRuns": Rpc("WatchRuns", runs.WatchRunsRequest(), "VIEWER"),
    "GetUsage": Rpc("GetUsage", runs.GetUsageRequest(), "VIEWER"),
    "CancelRun": Rpc("CancelRun", runs.CancelRunRequest(run_id=ID), "EDITOR"),
    "RetryRun": Rpc("RetryRun", runs.RetryRunRequest(run_id=ID), "EDITOR"),
    "PreviewPlaybook": Rpc("PreviewPlaybook", runs.PreviewPlaybookRequest(playbook_id=TITLES), "EDITOR"),
    "ApplyPlaybook": Rpc("ApplyPlaybook", runs.ApplyPlaybookRequest(**KEYS), "OWNER"),
    "ExecuteRun": Rpc(
        "ExecuteRun",
        executor.ExecuteRunRequest(
            job=RunJob(run_id=ID, project_id="p", playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)
        ),
        "SERVICE",
    ),
    "PurgeProject": Rpc("PurgeProject", runs.PurgeProjectRequest(), "OWNER"),
    "DeleteProject": Rpc("DeleteProject", executor.DeleteProjectRequest(), "SERVICE"),
    "CancelRuns": Rpc(
        "CancelRuns",
        executor.CancelRunsRequest(
            jobs=[RunJob(run_id=ID, project_id="p", playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE)]
        ),
        "SERVICE",
    ),
    "ReconcileRuns": Rpc("ReconcileRuns", executor.ReconcileRunsRequest(run_ids=[ID]), "SERVICE"),
    "EstimatePlaybook": Rpc("EstimatePlaybook", executor.EstimatePlaybookRequest(playbook_id=TITLES), "VIEWER"),
    "GetDraft": Rpc("GetDraft", executor.GetDraftRequest(draft_id=ID), "VIEWER"),
    "GetLatestDraft": Rpc("GetLatestDraft", executor.GetLatestDraftRequest(playbook_id=TITLES), "VIEWER"),
    "ListRunItems": Rpc("ListRunItems", executor.ListRunItemsRequest(run_id=ID), "VIEWER"),
    "PutProject": Rpc("PutProject", catalog.PutProjectRequest(), "OWNER"),
    "GetProject": Rpc("GetProject", catalog.GetProjectRequest(), "VIEWER"),
    "PutProducts": Rpc("PutProducts", catalog.PutProductsRequest(products=[catalog.Product(id="1")]), "OWNER"),
    "ListProducts": Rpc("ListProducts", catalog.ListProductsRequest(), "VIEWER"),
    "DeleteProducts": Rpc("DeleteProducts", catalog.DeleteProductsRequest(product_ids=["1"]), "OWNER"),
}


async def call(shop: Shop, rpc: Rpc, metadata: Any) -> Any:
    """Call an RPC in the shop's project; of a stream, read one message."""
    request = type(rpc.request)()
    request.CopyFrom(rpc.request)
    if "project_id" in request.DESCRIPTOR.fields_by_name:
        request.project_id = shop.project  # type: ignore[attr-defined]
    stub = next(stub for stub in (shop.runs(), shop.executor, shop.catalog) if hasattr(stub, rpc.name))
    calling = getattr(stub, rpc.name)(request, metadata=metadata, timeout=DEADLINE)
    try:
        return await (calling.read() if hasattr(calling, "read") else calling)
    finally:
        calling.cancel()


def test_AUT_001_covers_every_rpc() -> None:
    services = [
        runs.DESCRIPTOR.services_by_name["RunsService"],
        executor.DESCRIPTOR.services_by_name["ExecutorService"],
        catalog.DESCRIPTOR.services_by_name["CatalogService"],
    ]
    assert {method.name for service in services for method in service.methods} == {rpc.name for rpc in CALLS.values()}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def tokens(shop: Shop) -> dict[str, tuple[tuple[tuple[str, str], ...], str]]:
    """Metadata that must never do, and the reason given."""
    good = {"sub": "u", "exp": datetime.now(UTC) + timedelta(hours=1), "projects": {shop.project: "OWNER"}}
    secret = shop.stack.secrets.jwt_secret

    def made(key: str = secret, algorithm: str = "HS256", **changes: object) -> tuple[tuple[str, str], ...]:
        claims = {name: value for name, value in {**good, **changes}.items() if value is not None}
        return bearer(jwt.encode(claims, key, algorithm=algorithm))

    return {
        "none at all": ((), "TOKEN_MISSING"),
        "not a bearer": ((("authorization", "Basic dXNlcg=="),), "TOKEN_INVALID"),
        "garbage": (bearer("garbage"), "TOKEN_INVALID"),
        "expired": (made(exp=datetime.now(UTC) - timedelta(minutes=1)), "TOKEN_EXPIRED"),
        "never expires": (made(exp=None), "TOKEN_INVALID"),
        "nobody's": (made(sub=None), "TOKEN_INVALID"),
        "wrong signature": (made(key="x" * 40), "TOKEN_INVALID"),
        "alg none": (made(key="", algorithm="none"), "TOKEN_INVALID"),
        "unknown role": (made(projects={shop.project: "EMPEROR"}), "TOKEN_INVALID"),
        "projects is no map": (made(projects=[shop.project]), "TOKEN_INVALID"),
    }


async def refused(shop: Shop, name: str, metadata: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(shop, CALLS[name], metadata)
    return refusal(caught.value)


@pytest.mark.parametrize("name", CALLS)
async def test_AUT_001_a_bad_token_is_refused(shop: Shop, name: str) -> None:
    for kind, (metadata, reason) in tokens(shop).items():
        answer = await refused(shop, name, metadata)
        assert (answer.code, answer.reason) == (UNAUTHENTICATED, reason), kind


@pytest.mark.parametrize("name", CALLS)
async def test_AUT_001_another_projects_owner_is_refused(shop: Shop, name: str) -> None:
    answer = await refused(shop, name, shop.auth("OWNER", project="another")["metadata"])
    assert answer.code is DENIED
    assert answer.reason in {"PROJECT_ACCESS_DENIED", "ROLE_TOO_LOW"}


@pytest.mark.parametrize("name", [name for name, rpc in CALLS.items() if rpc.role != "VIEWER"])
async def test_AUT_001_a_role_too_low_is_refused(shop: Shop, name: str) -> None:
    needed = CALLS[name].role
    lower = {"EDITOR": ["VIEWER"], "OWNER": ["VIEWER", "EDITOR"], "SERVICE": ["VIEWER", "EDITOR", "OWNER"]}[needed]
    for role in lower:
        # For what only services may call, `*` keeps the project from being the reason.
        project = "*" if needed == "SERVICE" else shop.project
        answer = await refused(shop, name, shop.auth(role, project=project)["metadata"])
        assert (answer.code, answer.reason) == (DENIED, "ROLE_TOO_LOW"), role


@pytest.mark.parametrize("name", [name for name, rpc in CALLS.items() if rpc.role != "SERVICE"])
async def test_AUT_001_the_least_role_is_enough(shop: Shop, name: str) -> None:
    try:
        await call(shop, CALLS[name], shop.auth(CALLS[name].role)["metadata"])
    except grpc.aio.AioRpcError as error:
        assert error.code() not in (UNAUTHENTICATED, DENIED), error  # noqa: PT017


async def test_AUT_001_a_user_cannot_be_a_service_that_writes(shop: Shop) -> None:
    """The role SERVICE reads, executes and sets plans; it is no OWNER."""
    for name in ("PutProducts", "DeleteProducts", "CreateRun apply"):
        answer = await refused(shop, name, shop.auth("SERVICE", project="*")["metadata"])
        assert (answer.code, answer.reason) == (DENIED, "ROLE_TOO_LOW"), name


async def test_AUT_001_health_and_reflection_are_open(shop: Shop) -> None:
    for channel, service in (
        (shop.channels.runs[0], "playbooks.runs.v1.RunsService"),
        (shop.channels.executors[0], "playbooks.executor.v1.ExecutorService"),
        (shop.channels.executors[0], "playbooks.executor.v1.CatalogService"),
    ):
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = reflection.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=DEADLINE
        )
        listed = await call.read()
        call.cancel()
        assert service in {entry.name for entry in listed.list_services_response.service}


async def test_AUT_001_a_request_id_is_echoed(shop: Shop) -> None:
    call = shop.runs().GetRun(
        runs.GetRunRequest(project_id=shop.project, run_id=ID),
        metadata=(*shop.auth()["metadata"], ("x-request-id", "mine-42")),
        timeout=DEADLINE,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert ("x-request-id", "mine-42") in tuple(caught.value.trailing_metadata())
