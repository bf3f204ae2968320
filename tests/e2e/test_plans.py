"""PLN-001: what a project pays for is the platform's to say, not its owner's."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest, Project, PutProjectRequest

from tests.support.shop import Refusal, Shop, refusal

FREE, PRO, BUSINESS = Project.FREE, Project.PRO, Project.BUSINESS
PLATFORM = {"role": "OWNER", "project": "*"}
SERVICE = {"role": "SERVICE", "project": "*"}


@pytest.fixture
def new(new_shop: Callable[[], Shop]) -> Shop:
    """A project that does not exist yet, on a stack whose default plan is BUSINESS."""
    return new_shop()


async def put(shop: Shop, by: dict[str, str] | None = None, **fields: Any) -> Project:
    request = PutProjectRequest(project_id=shop.project, **fields)
    return (await shop.catalog.PutProject(request, **shop.auth(**(by or {})))).project


async def denied(shop: Shop, by: dict[str, str] | None = None, **fields: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(shop, by, **fields)
    answer = refusal(caught.value)
    assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW")
    return answer


async def stored(shop: Shop) -> tuple[Any, int | None] | None:
    """The project's plan and limit, or None if there is no project."""
    try:
        project = (await shop.catalog.GetProject(GetProjectRequest(project_id=shop.project), **shop.auth())).project
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017
        return None
    return facts(project)


def facts(project: Project) -> tuple[Any, int | None]:
    return project.plan, project.ai_daily_limit if project.HasField("ai_daily_limit") else None


async def test_PLN_001_an_owner_creates_its_project_on_the_default_plan(new: Shop) -> None:
    project = await put(new)
    assert facts(project) == (BUSINESS, None)
    assert project.ai_usage.used == 0
    assert facts(await put(new)) == await stored(new) == (BUSINESS, None)


@pytest.mark.parametrize(
    "fields",
    [{"plan": PRO}, {"plan": FREE}, {"ai_daily_limit": 10**9}, {"plan": BUSINESS, "ai_daily_limit": 10**9}],
    ids=str,
)
async def test_PLN_001_an_owner_chooses_neither_plan_nor_limit(new: Shop, fields: dict[str, Any]) -> None:
    answer = await denied(new, **fields)
    for words in ("plan", "ai_daily_limit", 'OWNER of "*"', "SERVICE", "leave both out"):
        assert words in answer.message
    assert answer.metadata == {"required_role": "OWNER", "required_project_id": "*"}
    assert await stored(new) is None, "a refusal creates nothing"


async def test_PLN_001_an_owner_raises_neither_later(new: Shop) -> None:
    await put(new, PLATFORM, plan=PRO, ai_daily_limit=5)
    for fields in ({"plan": BUSINESS}, {"plan": FREE}, {"ai_daily_limit": 10**9}, {"ai_daily_limit": 5}):
        await denied(new, **fields)
    await denied(new, plan=BUSINESS, ai_daily_limit=10**9)
    assert await stored(new) == (PRO, 5)


async def test_PLN_001_what_an_owner_repeats_changes_nothing(new: Shop) -> None:
    await put(new, PLATFORM, plan=PRO, ai_daily_limit=5)
    assert facts(await put(new)) == (PRO, 5)
    assert facts(await put(new, plan=PRO)) == (PRO, 5)  # an older script that sends the plan it has
    assert await stored(new) == (PRO, 5)


@pytest.mark.parametrize("by", [PLATFORM, SERVICE], ids=["OWNER of *", "SERVICE"])
async def test_PLN_001_the_platform_sets_both(new: Shop, by: dict[str, str]) -> None:
    assert facts(await put(new, by, plan=PRO, ai_daily_limit=7)) == (PRO, 7)
    assert facts(await put(new, by)) == (PRO, 7), "nothing given, nothing changed"
    assert facts(await put(new, by, ai_daily_limit=0)) == (PRO, 0), "the limit alone: the plan stays"
    assert facts(await put(new, by, plan=BUSINESS)) == (BUSINESS, None), "the plan alone: the plan's own limit"
    assert await stored(new) == (BUSINESS, None)


async def test_PLN_001_the_platform_creates_on_the_default_plan_too(new: Shop) -> None:
    assert facts(await put(new, PLATFORM, ai_daily_limit=3)) == (BUSINESS, 3)


@pytest.mark.parametrize("role", ["VIEWER", "EDITOR"])
async def test_PLN_001_less_than_an_owner_puts_no_project_in_any(new: Shop, role: str) -> None:
    await denied(new, {"role": role})
    await denied(new, {"role": role, "project": "*"}, plan=BUSINESS)
    assert await stored(new) is None


async def test_PLN_001_an_owner_of_one_project_is_not_the_platform_for_seeing_all(new: Shop) -> None:
    token = new.stack.secrets.token({"*": "VIEWER", new.project: "OWNER"}, user="u")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await new.catalog.PutProject(
            PutProjectRequest(project_id=new.project, plan=PRO),
            metadata=(("authorization", f"Bearer {token}"),),
            timeout=30,
        )
    assert refusal(caught.value).reason == "ROLE_TOO_LOW"


async def test_PLN_001_two_writers_at_once_leave_what_the_platform_said(new: Shop) -> None:
    """An owner who creates the project while the platform sets it up takes nothing back."""
    both = [put(new, PLATFORM, plan=PRO, ai_daily_limit=5), *(put(new) for _ in range(8))]
    answers = [facts(project) for project in await asyncio.gather(*both)]
    assert answers[0] == (PRO, 5)
    assert set(answers) <= {(PRO, 5), (BUSINESS, None)}
    assert await stored(new) == (PRO, 5)
