"""Tokens that are made to break who reads them, over the wire: a refusal each, and no trace in any log."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.runs.v1 import runs_service_pb2 as runs

from tests.support.shop import DEADLINE, Refusal, Shop, refusal
from tests.support.tokens import by_hand
from tests.unit.test_hostile_tokens import BODIES, HEADERS
from tests.unit.test_page_tokens import by_hand as page_token

RUN_ID = "01890000-0000-7000-8000-000000000000"
LARGEST = 4_000  # characters; gRPC refuses metadata that is much larger by itself
HOSTILE_BODIES = [b'["\\u0000"]', b'["\\ud800"]', b"[" * 300, b'["a\\u0000", "' + RUN_ID.encode() + b'"]']


def traces(shop: Shop) -> int:
    logs: list[Path] = [service.log for service in (*shop.stack.runs, *shop.stack.executors)]
    return sum(log.read_text().count("Traceback") for log in logs)


async def refused(calling: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await calling
    return refusal(caught.value)


async def test_a_hostile_jwt_is_unauthenticated_and_leaves_no_trace(shop: Shop) -> None:
    secret = shop.stack.secrets.jwt_secret.encode()
    tokens = [by_hand(header, b'{"sub":"u"}', secret) for header in HEADERS.values()]
    tokens += [by_hand(b'{"alg":"HS256"}', body, secret) for body in BODIES.values()]
    before = traces(shop)
    for token in (token for token in tokens if len(token) < LARGEST):
        call = {"metadata": (("authorization", f"Bearer {token}"),), "timeout": DEADLINE}
        for calling in (
            shop.runs().ListRuns(runs.ListRunsRequest(project_id=shop.project), **call),
            shop.catalog.GetProject(catalog.GetProjectRequest(project_id=shop.project), **call),
        ):
            answer = await refused(calling)
            assert (answer.code, answer.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID"), token
            assert answer.message.startswith("the token is not valid: ")
    assert traces(shop) == before


async def test_a_hostile_page_token_is_an_invalid_argument_and_leaves_no_trace(shop: Shop) -> None:
    before, auth, project = traces(shop), shop.auth(), {"project_id": shop.project}
    for body in (*HOSTILE_BODIES, b'["2026-05-04T00:00:00", "' + RUN_ID.encode() + b'"]'):
        of_runs = page_token(body, ["ListRuns", shop.project, "", "", "", ""])
        of_products = page_token(body, ["ListProducts", shop.project, ""])
        of_items = page_token(body, ["ListRunItems", shop.project, RUN_ID])
        items = executor.ListRunItemsRequest(**project, run_id=RUN_ID, page_token=of_items)
        for calling in (
            shop.runs().ListRuns(runs.ListRunsRequest(**project, page_token=of_runs), **auth),
            shop.catalog.ListProducts(catalog.ListProductsRequest(**project, page_token=of_products), **auth),
            shop.executor.ListRunItems(items, **auth),
        ):
            answer = await refused(calling)
            assert (answer.code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID"), body
            assert list(answer.fields) == ["page_token"]
    assert traces(shop) == before
