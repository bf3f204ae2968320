"""WEB-…: the API reference of the product this replaces and each of its scenarios, as its clients speak HTTP."""

import asyncio
from typing import Any

import httpx2
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog

from tests.support.http import watching
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Shop, hash_of, logged, scope_of
from tests.support.waiting import eventually

PREVIEW = {"runType": "PREVIEW_GENERATE"}
TERMINAL = ("SUCCEEDED", "FAILED", "STALE", "CANCELLED")


async def create(http: httpx2.AsyncClient, **body: Any) -> Any:
    answer = await http.post(f"{TITLES}/runs", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def ended(http: httpx2.AsyncClient, run: Any) -> Any:
    """Poll, as the older clients do, until the run has ended; return it."""

    async def has_ended() -> bool:
        run.update((await http.get(f"runs/{run['id']}")).json())
        return run["status"] in TERMINAL

    await eventually(has_ended)
    return run


async def follow(http: httpx2.AsyncClient, reference: str, **headers: str) -> httpx2.Response:
    """Get what a Location or Link header refers to."""
    target = reference.removeprefix("<").partition(">")[0]
    return await http.get(str(http.base_url.join(target)), headers=headers)


async def previewed(http: httpx2.AsyncClient, **meta: Any) -> Any:
    return await ended(http, await create(http, **PREVIEW, meta=meta))


async def applied(http: httpx2.AsyncClient, preview: Any, **changed: str) -> Any:
    body = {"runType": "APPLY", "scopeId": preview["scopeId"], "rulesHash": preview["rulesHash"]} | changed
    return await ended(http, await create(http, **body))


async def test_WEB_HP_001_a_preview_run_is_created_and_polled(shop: Shop) -> None:
    ids = await shop.stock(4)
    async with shop.http() as http:
        answer = await http.post(f"{TITLES}/runs", json={**PREVIEW, "meta": {"sampleSize": 3}})
        run = answer.json()
        assert (answer.status_code, run["status"], run["createdByUserId"]) == (201, "QUEUED", "tester")
        assert answer.headers["location"] == f"/api/projects/{shop.project}/automation-playbooks/runs/{run['id']}"
        assert answer.headers["content-type"] == "application/json"
        run = await ended(http, run)
        at_location = await follow(http, answer.headers["location"], **{"if-none-match": f'"{run["sequence"]}"'})
    assert (run["status"], run["aiUsed"], bool(run["draftId"])) == ("SUCCEEDED", True, True)
    assert (run["scopeId"], run["runType"]) == (scope_of(shop.project, TITLES, ids), "PREVIEW_GENERATE")
    assert run["result"]["affectedTotal"] == 4
    counts = {"suggestions": 3, "reused": 0, "cachedInputTokens": 0, "model": "test-model"}
    assert run["aiUsage"].items() >= counts.items()
    assert run["aiUsage"]["inputTokens"] == 100 * run["aiUsage"]["requests"] > 0
    assert (at_location.status_code, at_location.content) == (304, b"")
    for words in (f"Created run {run['id']}", f"Run {run['id']} completed successfully (aiUsed=true)"):
        assert logged(shop.stack, f"[AutomationPlaybookRun{'sService' if 'Created' in words else 'Processor'}] {words}")


async def test_WEB_HP_002_an_apply_run_uses_the_draft(shop: Shop) -> None:
    ids = await shop.stock(4)
    async with shop.http() as http:
        preview = await previewed(http, sampleSize=3)
        run = await applied(http, preview)
        items = await http.get(f"runs/{run['id']}/items", params={"limit": 3})
        rest = await follow(http, items.headers["link"])
        products = (await http.get("products")).json()
    assert (run["status"], run["aiUsed"], run["result"]["updated"]) == ("SUCCEEDED", False, 3)
    assert [item["productId"] for item in [*items.json(), *rest.json()]] == ids
    assert [item["status"] for item in [*items.json(), *rest.json()]] == ["UPDATED"] * 3 + ["SKIPPED"]
    assert "link" not in rest.headers
    day = run["finishedAt"][:10]
    async with shop.http() as http:
        usage = (await http.get("usage", params={"from": preview["finishedAt"][:10], "to": day})).json()
        refused = await http.get("usage", params={"from": "yesterday"})
    counts = {"totalRuns": 2, "aiRuns": 1, "previews": 1, "drafts": 0, "applies": 1, "appliesWithAi": 0}
    assert usage["summary"].items() >= counts.items()
    assert (usage["to"], usage["summary"]["aiUsage"]["suggestions"]) == (day, 3)
    assert {one["runType"]: one["runs"] for one in usage["days"]} == {"PREVIEW_GENERATE": 1, "APPLY": 1}
    assert (refused.status_code, refused.json()["fields"][0]["field"]) == (400, "from")
    assert [product["seoTitle"] for product in products][2:] == ["SEO title for Thing 3", ""]


async def test_WEB_HP_003_the_same_key_gets_the_same_run(shop: Shop) -> None:
    await shop.stock(1)
    async with shop.http() as http:
        answers = [await http.post(f"{TITLES}/runs", json={**PREVIEW, "idempotencyKey": "test-key-123"}) for _ in "ab"]
        other = await http.post(
            f"{TITLES}/runs", json={**PREVIEW, "idempotencyKey": "test-key-123", "meta": {"sampleSize": 9}}
        )
    assert [answer.status_code for answer in answers] == [201, 200]
    first, second = (answer.json() for answer in answers)
    assert first["id"] == second["id"]
    assert "location" not in answers[1].headers
    assert (other.status_code, other.json()["code"]) == (409, "IDEMPOTENCY_KEY_REUSED")
    assert other.json()["metadata"] == {"runId": first["id"]}


async def test_WEB_HP_004_lists_are_bare_arrays_with_filters_and_pages(shop: Shop) -> None:
    await shop.stock(1)
    async with shop.http() as http:
        runs = [await previewed(http, rules={"enabled": True, "prefix": f"{number} "}) for number in range(3)]
        runs.append(await applied(http, runs[0]))
        newest_first = [run["id"] for run in reversed(runs)]

        async def listed(query: str) -> list[str]:
            return [run["id"] for run in (await http.get(f"runs{query}")).json()]

        assert await listed("") == newest_first
        assert await listed("?playbookId=missing_seo_title") == newest_first
        assert await listed("?runType=APPLY") == newest_first[:1]
        assert await listed("?status=&limit=2&offset=1") == newest_first[1:3]
        assert await listed(f"?scope_id={runs[0]['scopeId']}&run_type=PREVIEW_GENERATE") == newest_first[1:]
        page = await http.get("runs?limit=3&offset=0")
        link = page.headers["link"]
        assert link.endswith('>; rel="next"')
        rest = await follow(http, link)
        assert [run["id"] for run in [*page.json(), *rest.json()]] == newest_first
        assert (await http.get("runs?playbook=missing_seo_title")).status_code == 400


async def test_WEB_EC_002_two_hundred_posts_with_one_key_get_one_run(shop: Shop) -> None:
    await shop.stock(1)
    async with shop.http() as http:
        body = {**PREVIEW, "idempotencyKey": "rush"}
        answers = await asyncio.gather(*(http.post(f"{TITLES}/runs", json=body) for _ in range(200)))
        listed = (await http.get("runs")).json()
    assert sorted(answer.status_code for answer in answers) == [200] * 199 + [201]
    assert {answer.json()["id"] for answer in answers} == {run["id"] for run in listed}
    assert len(listed) == 1


async def test_WEB_EC_003_an_apply_for_a_scope_that_changed_is_stale(shop: Shop) -> None:
    ids = await shop.stock(2)
    async with shop.http() as http:
        preview = await previewed(http)
        await shop.delete(ids[0])
        run = await applied(http, preview)
    assert (run["status"], run["errorCode"]) == ("STALE", "PLAYBOOK_SCOPE_INVALID")
    assert preview["scopeId"] in run["errorMessage"]


async def test_WEB_ERR_001_when_ai_fails_the_run_fails_without_a_draft(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(1)
    openai.behave(Behaviour(status=401))
    async with shop.http() as http:
        run = await previewed(http)
        latest = [await http.get(f"{TITLES}/{path}/latest") for path in ("draft", "drafts")]
    assert (run["status"], run["errorCode"]) == ("FAILED", "AI_AUTHENTICATION_FAILED")
    assert [(answer.status_code, answer.json()["draft"]) for answer in latest] == [(200, None)] * 2


async def test_WEB_ERR_002_an_apply_without_a_draft_is_stale(shop: Shop) -> None:
    ids = await shop.stock(1)
    async with shop.http() as http:
        run = await applied(http, {"scopeId": scope_of(shop.project, TITLES, ids), "rulesHash": "0" * 16})
    assert (run["status"], run["errorCode"]) == ("STALE", "PLAYBOOK_DRAFT_NOT_FOUND")


async def test_WEB_ERR_003_an_apply_with_other_rules_is_stale(shop: Shop) -> None:
    await shop.stock(1)
    async with shop.http() as http:
        preview = await previewed(http, rules={"enabled": True, "maxLength": 60})
        assert preview["rulesHash"] == hash_of({"enabled": True, "maxLength": 60, "mode": "enforce"})
        run = await applied(http, preview, rulesHash="0" * 16)
    assert (run["status"], run["errorCode"]) == ("STALE", "PLAYBOOK_RULES_CHANGED")


async def test_WEB_LIM_001_the_daily_limit_is_said_before_and_after(shop: Shop) -> None:
    await shop.open(plan=catalog.Project.PRO, limit=2)
    await shop.stock(3)
    async with shop.http() as http:
        run = await previewed(http, sampleSize=3)
        estimate = (await http.get(f"estimate?playbookId={TITLES}")).json()
    assert (run["status"], run["errorCode"]) == ("FAILED", "AI_DAILY_LIMIT_REACHED")
    assert (estimate["totalAffected"], estimate["eligible"], len(estimate["reasons"])) == (3, False, 1)
    limit = estimate["aiDailyLimit"]
    assert (limit["limit"], limit["used"], limit["remaining"]) == (2, 0, 2)
    assert limit["resetsAt"].endswith("T00:00:00Z")


@pytest.mark.parametrize("path", [f"{TITLES}/apply", "apply"])
async def test_WEB_REG_the_older_synchronous_endpoints_still_work(shop: Shop, path: str) -> None:
    await shop.stock(2)
    async with shop.http() as http:
        preview = (await http.post(f"{TITLES}/preview", json={"meta": {"sampleSize": 1}})).json()
        run = preview["run"]
        assert (run["status"], len(preview["draft"]["items"])) == ("SUCCEEDED", 1)
        body = {"scopeId": run["scopeId"], "rulesHash": run["rulesHash"]}
        answer = await http.post(path, json=body if path != "apply" else {**body, "playbookId": TITLES})
    assert answer.status_code == 200
    assert [item["status"] for item in answer.json()["items"]] == ["UPDATED", "SKIPPED"]


async def test_WEB_live_a_run_is_seen_from_its_creation_to_its_end(shop: Shop) -> None:
    await shop.stock(3)
    async with shop.http() as http:
        run = await create(http, **PREVIEW)
        path = f"runs/{run['id']}:watch"
        async with watching(http, path, "0") as stream:
            events = await stream.rest()
        assert [int(event.id) for event in events] == list(range(1, len(events) + 1))
        assert [events[0].json["status"], events[-1].json["status"]] == ["QUEUED", "SUCCEEDED"]
        assert (await http.get(path, headers={"last-event-id": events[-1].id})).status_code == 204


async def test_WEB_cancel_and_retry(shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    async with shop.http("EDITOR") as http:
        run = await create(http, **PREVIEW)
        assert (await http.post(f"runs/{run['id']}:retry")).json()["reason"] == "RUN_NOT_RETRYABLE"
        await http.post(f"runs/{run['id']}:cancel")
        assert (await ended(http, run))["status"] == "CANCELLED"
        openai.reset()
        retries = [await http.post(f"runs/{run['id']}:retry") for _ in "ab"]
        assert [retry.status_code for retry in retries] == [201, 200]
        retry = retries[0].json()
        assert retry["retryOf"] == run["id"]
        assert (await ended(http, retry))["status"] == "SUCCEEDED"


async def test_WEB_roles_and_projects_are_kept_apart(shop: Shop) -> None:
    await shop.stock(1)
    async with shop.http("VIEWER") as viewer, shop.http() as owner:
        run = await create(owner, **PREVIEW)
        assert (await viewer.get(f"runs/{run['id']}")).status_code == 200
        refused = await viewer.post(f"{TITLES}/runs", json=PREVIEW)
        assert (refused.status_code, refused.json()["reason"]) == (403, "ROLE_TOO_LOW")
        elsewhere = str(owner.base_url).replace(shop.project, "another")
        foreign = await owner.get(f"{elsewhere}runs/{run['id']}")
        assert (foreign.status_code, foreign.json()["reason"]) == (403, "PROJECT_ACCESS_DENIED")
        nobody = await owner.get("runs", headers={"authorization": ""})
        assert (nobody.status_code, nobody.json()["message"]) == (401, nobody.json()["detail"])
        invalid = (await owner.post(f"{TITLES}/runs", json={**PREVIEW, "meta": {"sampleSize": 99}})).json()
        assert [field["field"] for field in invalid["fields"]] == ["meta.sampleSize"]
        assert (await follow(owner, "/readyz")).json()["status"] == "ready"
