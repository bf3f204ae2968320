"""What the other tests here rely on: nothing that a browser complains about goes unseen."""

import pytest
from playwright.async_api import Browser, Route

from tests.support.browser import Tab, chromium
from tests.support.waiting import eventually

ADDRESS = "http://page.test/"
STRICT = {"content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'"}
SOUND = '<!doctype html><html lang="en"><title>T</title><main><h1>T</h1>%s</main></html>'


async def show(browser: Browser, content: str, script: str = "") -> Tab:
    """Open a page of this content that is served with a strict policy, and a script of its own."""

    async def answer(route: Route) -> None:
        if route.request.url.endswith("/script.js"):
            await route.fulfill(body=script, content_type="text/javascript", headers=STRICT)
        elif route.request.url == ADDRESS:
            body = SOUND % f'<script src="script.js"></script>{content}'
            await route.fulfill(body=body, content_type="text/html", headers=STRICT)
        else:
            await route.fulfill(status=404)

    tab = await Tab.open(browser)
    await tab.context.route("**/*", answer)
    await tab.page.goto(ADDRESS)
    return tab


REFUSED = {  # by a part of the complaint: what provokes it
    "Executing inline script": "<script>1</script>",
    "Applying inline style": '<p style="color: red">',
    "Executing inline event handler": '<button onclick="1">Go</button>',
    "Loading the image": '<img alt="" src="http://elsewhere.test/">',
}
WRONG = {
    "error: this went wrong": "console.error('this went wrong');",
    "warning: this is doubtful": "console.warn('this is doubtful');",
    "uncaught: nobody caught this": "setTimeout(() => { throw new Error('nobody caught this') });",
    "uncaught: nobody awaited this": "Promise.reject(new Error('nobody awaited this'));",
    "status of 404": "fetch('missing');",
    "alert: hello": "setTimeout(() => alert('hello'));",
}


async def test_each_complaint_of_the_browser_is_seen(browser: Browser) -> None:
    tab = await show(browser, "".join(REFUSED.values()), "".join(WRONG.values()))
    try:
        for part in (*REFUSED, *WRONG):
            await eventually(lambda: any(part in one for one in tab.unexpected()))  # noqa: B023  # awaited here
        tab.expected += [*REFUSED, *WRONG]
        assert tab.unexpected() == []
    finally:
        await tab.context.close()


async def test_axe_runs_under_a_strict_policy_and_finds_what_is_wrong(browser: Browser) -> None:
    tab = await show(browser, "<button></button>")
    try:
        (found,) = await tab.violations()
        assert found.startswith("button-name: ")
        await tab.page.evaluate("document.querySelector('button').textContent = 'Go'")
        assert await tab.violations() == []
        assert tab.unexpected() == []  # axe itself breaks no rule
    finally:
        await tab.context.close()


def test_without_a_chromium_tests_are_skipped_and_fail_where_everything_was_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install --no-install-recommends chromium"):
        chromium()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="apt-get install --no-install-recommends chromium"):
        chromium()
