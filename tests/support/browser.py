"""A real Chromium, driven by playwright. Each complaint of the browser fails the test that uses it."""

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, async_playwright

MISSING = "no Chromium: apt-get install --no-install-recommends chromium, or name one in CHROMIUM"
SIZE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
TIMEOUT = 30_000  # milliseconds for a click, or for what must be seen; far beyond what any takes
AXE = "(only) => axe.run(document, {resultTypes: ['violations'], runOnly: only})"
STANDARDS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS: Final = ["color-contrast", "link-in-text-block"]


def chromium() -> str:
    """Return the path of a Chromium. Without one the test is skipped; where CI is set it fails."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail(MISSING) if os.environ.get("CI") else pytest.skip(MISSING)
    return path


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Run a Chromium without a window."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium())
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Tab:
    """A page in a browser of its own, as far as sessions and storage go.

    `complaints` has what the browser said of it: errors on the console, violations of the content security policy among
    them, uncaught errors, dialogs. `expected` are parts of complaints that the test provokes.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    @classmethod
    async def open(cls, browser: Browser, **options: Any) -> "Tab":
        """Open an empty one. `options` are those of Browser.new_context."""
        context = await browser.new_context(**{"viewport": SIZE, "reduced_motion": "reduce", **options})
        context.set_default_timeout(TIMEOUT)
        tab = cls(await context.new_page())
        context.on("weberror", lambda error: tab.complaints.append(f"uncaught: {error.error}"))
        context.on("console", tab._on_console)
        tab.page.on("dialog", tab._on_dialog)
        return tab

    @property
    def context(self) -> BrowserContext:
        return self.page.context

    async def empty(self, address: str) -> None:
        """Make it as good as a new one, at a third of the cost: forget the session of the origin of `address`, and show
        what is there, which is to be small."""
        for page in self.context.pages:
            if page is not self.page:
                await page.close()
        await self.page.goto(address)
        await self.page.evaluate("sessionStorage.clear()")
        await self.page.set_viewport_size(SIZE)  # type: ignore[arg-type]
        await self.page.emulate_media(color_scheme="light")

    def forget(self) -> None:
        """Forget all complaints."""
        self.complaints.clear()
        self.expected.clear()

    def unexpected(self) -> list[str]:
        """Return the complaints that the test did not expect."""
        return [one for one in self.complaints if not any(part in one for part in self.expected)]

    async def violations(self, only: Sequence[str] = STANDARDS) -> list[str]:
        """Return what axe-core finds wrong for keyboards, screen readers and eyes; a line for each. `only`: tags or
        names of rules."""
        if not await self.page.evaluate("'axe' in window"):
            script = resources.files("axe_playwright_python") / "axe.min.js"
            await self.page.evaluate(script.read_text(encoding="utf-8"))
        found = await self.page.evaluate(AXE, only)
        return [
            f"{violation['id']}: {violation['help']}: {node['html']} ({node['failureSummary']})"
            for violation in found["violations"]
            for node in violation["nodes"]
        ]

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    async def _on_dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"{dialog.type}: {dialog.message}")
        await dialog.dismiss()
