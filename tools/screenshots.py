"""Makes the pictures of the page in docs/: `.venv/bin/python tools/screenshots.py`.

Starts a stack with the example shop, does half of the job on it, and looks at it with the machine's Chromium (or the
one in CHROMIUM), in light and in dark. Debian's fonts-noto-color-emoji has the emoji that are in the shop's texts.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from playbooks.runs.v1.run_pb2 import PlaybookRules, Run
from playwright.async_api import Page, async_playwright

from devstack.stack import Stack, StackOptions
from runs_client.catalog_limits import fit
from runs_client.catalog_mapping import to_product
from runs_client.client import RunsClient
from runs_client.executor import ExecutorClient
from runs_client.shopify import Catalog

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
PROJECT: Final = "demo-shop"
TITLES, DESCRIPTIONS = "missing_seo_title", "missing_seo_description"
SCHEMES: Final = ("light", "dark")
MOST: Final = 150_000  # bytes of a picture


class Seller:
    """Somebody who has improved half of the example shop."""

    def __init__(self, runs: RunsClient, executor: ExecutorClient) -> None:
        self._runs = runs
        self._executor = executor

    async def work(self) -> Run:
        """Apply titles, draft descriptions, and do some things that fail; return the run that applied."""
        products, _ = fit(Catalog.read(ROOT / "examples" / "shop-catalog.csv").products)
        await self._executor.put_project(PROJECT)
        await self._executor.put_products(PROJECT, [to_product(product) for product in products])
        await self._run(TITLES, Run.APPLY, scope_id="0" * 16, rules_hash="0" * 16)
        preview = await self._run(TITLES, Run.PREVIEW_GENERATE)
        await self._follow(preview, Run.DRAFT_GENERATE)
        applied = await self._follow(preview, Run.APPLY)
        rules = PlaybookRules(enabled=True, suffix=" Free shipping.", max_length=160)
        preview = await self._run(DESCRIPTIONS, Run.PREVIEW_GENERATE, rules=rules, sample_size=5)
        await self._follow(preview, Run.DRAFT_GENERATE)
        return applied

    async def _follow(self, preview: Run, run_type: Run.Type.ValueType) -> Run:
        return await self._run(preview.playbook_id, run_type, scope_id=preview.scope_id, rules_hash=preview.rules_hash)

    async def _run(self, playbook: str, run_type: Run.Type.ValueType, **fields: object) -> Run:
        created = await self._runs.create(PROJECT, playbook, run_type, **fields)  # type: ignore[arg-type]
        run = created.run
        async for change in self._runs.watch(PROJECT, run.id):
            run = change.run
        return run


async def shoot(page: Page, name: str) -> None:
    """Take a picture of what is in the window, in light and in dark."""
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        file = DOCS / f"page-{name}-{scheme}.png"
        await page.screenshot(path=file)
        size = file.stat().st_size
        print(f"{file.relative_to(ROOT)}: {size} bytes")
        if size > MOST:
            sys.exit(f"{file} is larger than {MOST} bytes")


async def main() -> None:
    """Make the pictures."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium: apt-get install --no-install-recommends chromium, or name one in CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        options = StackOptions(data_dir=Path(folder), http=True, durable=False, env={"AI_PROVIDER": "offline"})
        with Stack(options) as stack:
            token = stack.token(PROJECT, "OWNER", user="mira")
            async with (
                RunsClient(stack.runs_target, token=token) as runs,
                ExecutorClient(stack.executor_target, token=token) as executor,
            ):
                applied = await Seller(runs, executor).work()
                stack.executors[0].kill()  # so that the next run waits
                waiting = await runs.create(PROJECT, TITLES, Run.APPLY, scope_id="0" * 16, rules_hash="0" * 16)
                await runs.cancel(PROJECT, waiting.run.id)
                await runs.create(PROJECT, TITLES, Run.PREVIEW_GENERATE)
            await _look(stack, chromium, token, applied)


async def _look(stack: Stack, chromium: str, token: str, applied: Run) -> None:
    assert stack.gateway
    url = stack.gateway.url
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        context = await browser.new_context(viewport={"width": 1280, "height": 720}, locale="en-GB")
        page = await context.new_page()

        async def open_place(seen: str, **place: str) -> None:
            await page.goto(f"{url}/?{urlencode({'project': PROJECT, **place})}#token={token}")
            await page.wait_for_selector(seen)
            await page.wait_for_selector('#live:is([data-state="live"], [data-state="ended"])')

        await open_place("tr[data-run]")
        await shoot(page, "runs")
        stack.executors[0].start()
        await asyncio.to_thread(stack.executors[0].wait_ready)
        await open_place("tr[data-product]", view="playbooks", playbook=DESCRIPTIONS)
        await shoot(page, "job")
        await open_place("tr[data-product]", run=applied.id)
        await shoot(page, "run")
        await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
