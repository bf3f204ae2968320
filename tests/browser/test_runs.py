"""The list of runs and a run: live, filtered by the address, cancelled and retried; and over services that restart."""

import asyncio
import re
from datetime import UTC, timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run, RunMeta
from playwright.async_api import expect

from tests.support.browser import PHONE
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import DESCRIPTIONS, Shop
from tests.support.shop_page import REFUSED, ShopPage, address
from tests.support.stream_counter import counting_streams
from tests.support.waiting import eventually

UNKNOWN = "0198f0a0-0000-7000-8000-000000000000"
LOST = ("Failed to load resource", "net::ERR_")  # what Chromium says while there is no server


async def stale_runs(shop: Shop, count: int) -> list[str]:
    """Make runs that end at once, for there is no such scope; return their ids, newest first."""
    fields = {"scope_id": "0" * 16, "rules_hash": "0" * 16}
    runs = [(await shop.create(Run.APPLY, idempotency_key=uuid4().hex, **fields)).run for _ in range(count)]
    await asyncio.gather(*(shop.ended(run) for run in runs))
    return [run.id for run in reversed(runs)]


async def test_runs_appear_and_change_by_themselves_over_one_stream(
    page: ShopPage, shop: Shop, openai: OpenAIServer
) -> None:
    await shop.stock(30)
    await page.enter()
    await page.is_live()
    openai.behave(Behaviour(delay_seconds=60))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await page.has_status(run.id, "Running")
    await page.row(run.id).get_by_role("link").click()
    await expect(page.page.get_by_role("heading", level=1)).to_have_text("Preview · Missing SEO titles")
    await page.is_live()
    await shop.cancel(run.id)
    await expect(page.page.locator(".run-title [data-status]")).to_have_text("Cancelled")
    await expect(page.page.locator("#live")).to_have_text("Ended")
    await page.page.go_back()
    await page.has_status(run.id, "Cancelled")
    await page.is_live()
    assert page.most_streams == 1

    await page.page.locator("#live").click()
    await expect(page.page.locator("#live")).to_have_text("Paused")
    await eventually(lambda: page.open_streams == 0)
    other = await stale_runs(shop, 1)
    await expect(page.rows).to_have_count(1)
    await page.page.locator("#live").click()
    await page.has_status(other[0], "Stale")  # nothing was missed


async def test_progress_shows_while_a_run_works(page: ShopPage, shop: Shop, openai: OpenAIServer) -> None:
    """In the list and beside its timeline, as the answers arrive: all but those that the last request waits for."""
    *_, last = sorted(await shop.stock(30))
    openai.behave(Behaviour(delay_seconds=60, product_ids=[last]), Behaviour(delay_seconds=0.5))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=30))).run
    await page.enter()
    await expect(page.row(run.id)).to_contain_text(re.compile(r"\b[12]\d of 30"))
    await expect(page.row(run.id).get_by_role("progressbar", name="Progress")).to_have_attribute("max", "30")
    await page.row(run.id).get_by_role("link").click()
    await expect(page.page.locator("main")).to_contain_text(re.compile(r"\b[12]\d of 30"))
    await shop.cancel(run.id)
    await expect(page.page.locator("#live")).to_have_text("Ended")
    await expect(page.page.get_by_role("progressbar")).to_have_count(0)


async def test_views_that_change_leave_no_stream_and_no_question_behind(page: ShopPage, shop: Shop) -> None:
    (run,) = await stale_runs(shop, 1)
    await page.enter()
    await page.is_live()
    for _ in range(3):
        await page.link("Playbooks").click()
        await page.link("Runs").click()
    await page.is_live()
    await eventually(lambda: page.open_streams == 1)
    await page.link("Apply").click()
    await page.button("Retry").click()
    await expect(page.dialog).to_be_visible()
    await page.page.go_back()
    await expect(page.dialog).to_have_count(0)
    await page.has_status(run, "Stale")
    await expect(page.rows).to_have_count(1)


async def test_a_tab_closes_its_stream_before_it_opens_another(
    page: ShopPage, shop: Shop, openai: OpenAIServer
) -> None:
    """A browser opens six connections to an origin: with a second one a tab, three tabs have none left for calls."""
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    assert shop.stack.gateway
    async with counting_streams(shop.stack.gateway.url) as streams:
        token = shop.stack.token(shop.project, "OWNER")
        await page.page.goto(address(shop, token).replace(shop.stack.gateway.url, streams.url))
        for is_patient in (True, False, True, False):
            await page.is_live()
            await page.row(run.id).get_by_role("link").click()
            await expect(page.page.get_by_role("heading", name="Timeline")).to_be_visible()
            if is_patient:
                await page.is_live()
            await page.link("Playbooks").click()
            if is_patient:
                await page.is_live()
            await page.link("Runs").click()
        await page.is_live()
        assert streams.total >= 8
        assert streams.most == 1
        await page.page.goto("about:blank")
    await shop.cancel(run.id)


async def test_filters_live_in_the_address_and_hold_for_what_arrives(page: ShopPage, shop: Shop) -> None:
    await shop.stock(2)
    titles = await shop.preview()
    descriptions = await shop.preview(DESCRIPTIONS)
    stale = await stale_runs(shop, 1)
    await page.enter()
    await page.lists(*stale, descriptions.id, titles.id)

    await page.page.get_by_label("Playbook").select_option("Missing SEO titles")
    await page.lists(*stale, titles.id)
    await page.page.get_by_label("Status").select_option("Stale")
    await page.lists(*stale)
    query = parse_qs(urlsplit(page.page.url).query)
    assert query == {"project": [shop.project], "playbook": ["missing_seo_title"], "status": ["STALE"]}
    await page.is_live()
    more = await stale_runs(shop, 1)
    await shop.preview()
    await page.lists(*more, *stale)

    await page.page.reload()  # as somebody who was sent the address
    await page.lists(*more, *stale)
    await page.page.go_back()
    await expect(page.rows).to_have_count(4)
    await page.link("Clear filters").click()
    await expect(page.rows).to_have_count(5)
    scope = page.page.get_by_label("Scope")
    await scope.fill(descriptions.scope_id)
    await scope.press("Enter")
    await page.lists(descriptions.id)
    assert parse_qs(urlsplit(page.page.url).query)["scope"] == [descriptions.scope_id]
    await page.page.get_by_label("Type").select_option("Full draft")
    await expect(page.page.get_by_role("heading", name="No runs match these filters")).to_be_visible()


async def test_more_runs_are_loaded_and_one_is_found_by_its_id(page: ShopPage, shop: Shop) -> None:
    runs = await stale_runs(shop, 55)
    await page.enter()
    await page.lists(*runs[:50])
    await page.button("Load more").click()
    await page.lists(*runs)
    await expect(page.button("Load more")).to_be_hidden()

    find = page.page.get_by_label("Find by id")
    await find.fill("x")
    await page.button("Find").click()
    await expect(page.page.locator("#find-error")).to_contain_text("A run's id has 36 characters")
    page.tab.expected.append(f"{REFUSED} 404")
    await find.fill(UNKNOWN)
    await page.button("Find").click()
    await expect(page.page.locator("#find-error")).to_have_text("There is no run with this id in this project.")
    await find.fill(f" {runs[54].upper()} ")
    await page.button("Find").click()
    await expect(page.page.locator(".failure")).to_contain_text("PLAYBOOK_SCOPE_INVALID")
    await expect(page.page.locator(".facts")).to_contain_text(runs[54])


async def test_several_runs_are_cancelled_and_retried_at_once(page: ShopPage, shop: Shop, openai: OpenAIServer) -> None:
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    running = [
        (await shop.create(Run.PREVIEW_GENERATE, playbook, idempotency_key=key)).run.id
        for playbook, key in (("missing_seo_title", "a"), (DESCRIPTIONS, "b"))
    ]
    stale = await stale_runs(shop, 1)
    await page.enter()
    for run in running:
        await page.has_status(run, "Running")
    await page.page.get_by_label("Select all runs that are shown").check()
    await expect(page.page.get_by_role("region", name="Selected runs")).to_contain_text("3 runs selected")
    await page.button("Cancel 2 runs").click()
    await page.dialog.get_by_role("button", name="Cancel 2 runs").click()
    await page.says("2 runs cancelled.")
    for run in running:
        await page.has_status(run, "Cancelled")

    openai.reset()
    for run in (*running, *stale):
        await page.row(run).get_by_role("checkbox").check()
    await page.button("Retry 3 runs").click()
    await page.dialog.get_by_role("button", name="Retry 3 runs (may use AI)").click()
    await page.says("3 runs started again.")
    await expect(page.rows).to_have_count(6)
    await expect(page.rows.locator('[data-status="SUCCEEDED"]')).to_have_count(2)


async def test_a_run_is_cancelled_then_retried_and_both_refer_to_each_other(
    page: ShopPage, shop: Shop, openai: OpenAIServer
) -> None:
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await page.enter(run=run.id)
    await page.button("Cancel").click()
    await expect(page.dialog.get_by_role("button", name="Back")).to_be_focused()
    await page.button("Back").click()
    await expect(page.button("Cancel")).to_be_focused()
    await page.button("Cancel").click()
    await page.dialog.get_by_role("button", name="Cancel 1 run").click()
    openai.reset()
    await page.button("Retry").click()
    await page.dialog.get_by_role("button", name="Retry 1 run (may use AI)").click()
    await expect(page.page.locator(".run-title [data-status]")).to_have_text("Succeeded")
    await page.link(run.id).click()
    await expect(page.page.locator(".facts")).to_contain_text("Retried by")
    await page.is_blocked("Retry", "It was retried already; retry the newest of the chain.")


async def test_the_page_goes_on_after_services_and_gateway_restart(
    page: ShopPage, shop: Shop, openai: OpenAIServer
) -> None:
    page.tab.expected += LOST
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    await page.enter()
    await page.is_live()
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    await page.has_status(run.id, "Running")
    live = page.page.locator("#live")
    assert shop.stack.gateway
    await page.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    name = page.page.locator(".account .project")
    for process in (shop.stack.runs[0], shop.stack.gateway):
        process.kill()
        await expect(live).to_have_text("Connection lost")
        assert await name.evaluate("({clientWidth, scrollWidth}) => clientWidth / scrollWidth") > 0.5  # it is readable
        process.start()
        await asyncio.to_thread(process.wait_ready)
        await live.click()  # a person who waits no longer
        await page.is_live()
    await shop.cancel(run.id)
    await page.has_status(run.id, "Cancelled")
    (missed,) = await stale_runs(shop, 1)
    await page.has_status(missed, "Stale")
    await expect(page.rows).to_have_count(2)


async def test_a_run_links_to_its_trace(page: ShopPage, shop: Shop) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    auth = shop.auth()
    auth["metadata"] += (("traceparent", f"00-{trace_id}-b7ad6b7169203331-01"),)
    request = pb.CreateRunRequest(
        project_id=shop.project, playbook_id="missing_seo_title", run_type=Run.PREVIEW_GENERATE
    )
    run = (await shop.runs().CreateRun(request, **auth)).run
    await page.enter(run=run.id)
    link = page.page.locator(".facts").get_by_role("link", name=trace_id)
    await expect(link).to_have_attribute("href", f"https://traces.example/{trace_id}")


async def test_times_are_local_with_utc_on_hover_and_identifiers_are_copied(page: ShopPage, shop: Shop) -> None:
    (run_id,) = await stale_runs(shop, 1)
    run = await shop.get(run_id)
    devtools = await page.tab.context.new_cdp_session(page.page)
    await devtools.send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kathmandu"})  # 5:45 ahead: other minutes
    await page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.enter(run=run_id)
    time = page.page.locator(".facts time").first
    created = run.created_at.ToDatetime(UTC)
    await expect(time).to_have_attribute(
        "title", f"{created.isoformat(' ', 'milliseconds').removesuffix('+00:00')} UTC"
    )
    await expect(time).to_contain_text(f"{created + timedelta(minutes=45):%M:%S}")
    for what, copied in (("run id", run_id), ("scope", run.scope_id), ("rules hash", run.rules_hash)):
        await page.button(f"Copy the {what}").click()
        assert await page.page.evaluate("navigator.clipboard.readText()") == copied
    await devtools.detach()
