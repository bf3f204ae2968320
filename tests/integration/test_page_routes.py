"""The page's files, as a browser gets them: strict, cached, packaged, and beside the API's routes."""

import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest
from hatchling.builders.wheel import WheelBuilder

from devstack.ports import HOST
from gateway import app as gateway_app
from gateway.page_files import FOLDER, POLICY, TYPES
from gateway.routes import Routes
from gateway.settings import GatewaySettings
from tests.support.http import client

NOBODY = f"{HOST}:1"
PROJECT = Path(__file__).parents[2]
FILES = sorted(path.name for path in FOLDER.iterdir())


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a gateway without services."""
    settings = GatewaySettings(listen=f"{HOST}:0", runs_target=NOBODY, executor_target=NOBODY)
    async with gateway_app.serving(settings) as server, client(f"http://{server.address}") as http:
        yield http


async def test_the_page_needs_no_token_and_no_service(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/?project=shop&status=FAILED")
    assert answer.status_code == HTTPStatus.OK
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Playbook runs</title>" in answer.text


async def test_every_file_is_strict_and_revalidated(http: httpx2.AsyncClient) -> None:
    for path in ("/", *(f"/page/{name}" for name in FILES)):
        answer = await http.get(path)
        assert answer.status_code == HTTPStatus.OK, path
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        known = await http.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (known.status_code, known.content) == (HTTPStatus.NOT_MODIFIED, b"")
        assert known.headers["etag"] == answer.headers["etag"]
        other = await http.get(path, headers={"if-none-match": '"other"'})
        assert other.content == answer.content
        head = await http.head(path)
        assert (head.status_code, head.content) == (HTTPStatus.OK, b"")


def test_the_policy_allows_nothing_inline_and_nothing_of_others() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules.pop("img-src") == "'self' data:"
    assert {rules.pop(name) for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert rules == dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")


@pytest.mark.parametrize("path", ["/page/", "/page/none.js", "/page/../app.py", "/page/%2e%2e%2fapp.py", "/page/x/y"])
async def test_nothing_else_is_served(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.json()["reason"]) == (HTTPStatus.NOT_FOUND, "ROUTE_UNKNOWN")
    assert (await http.post("/")).status_code == HTTPStatus.METHOD_NOT_ALLOWED


def test_no_route_of_the_api_is_the_pages() -> None:
    for at_root in (False, True):
        for route in Routes([*gateway_app.RUNS, *gateway_app.EXECUTOR], at_root=at_root).all:
            assert route.template.text != "/"
            assert not route.template.text.startswith("/page/")


def test_what_the_files_name_is_there() -> None:
    """A module, style or icon that is not there shows only in a browser, and there late."""
    index = (FOLDER / "index.html").read_text()
    named = {name.removeprefix("page/") for name in re.findall(r'(?:href|src)="(page/[^"]+)"', index)}
    for script in FOLDER.glob("*.js"):
        named |= {name.removeprefix("./") for name in re.findall(r'from "(\./[^"]+)"', script.read_text())}
    assert named
    assert named <= set(FILES)
    assert {Path(name).suffix for name in FILES} <= set(TYPES)


def test_no_text_becomes_markup_or_code() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|\bsrcdoc\b"
        r"|setHTML|createContextualFragment|javascript:"
    )
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert not forbidden.search(text), name
        assert "<script>" not in text
        assert "<style" not in text
        assert not re.search(r"\sstyle=|\son[a-z]+=\"", text), name


def test_modules_have_one_noun_each() -> None:
    for name in FILES:
        assert len((FOLDER / name).read_text().splitlines()) <= 308, name


def test_the_wheel_has_the_page() -> None:
    packaged = {file.distribution_path for file in WheelBuilder(str(PROJECT)).recurse_included_files()}
    assert {f"gateway/page/{name}" for name in FILES} <= packaged


async def test_the_page_learns_where_traces_are_and_bad_addresses_stop_the_start(http: httpx2.AsyncClient) -> None:
    assert '<meta name="trace-url" content="">' in (await http.get("/")).text
    settings = GatewaySettings(
        listen=f"{HOST}:0", runs_target=NOBODY, executor_target=NOBODY, trace_url="https://t.example/{trace_id}?a=1&b=2"
    )
    async with gateway_app.serving(settings) as server, client(f"http://{server.address}") as other:
        shown = (await other.get("/")).text
    assert '<meta name="trace-url" content="https://t.example/{trace_id}?a=1&amp;b=2">' in shown
    for bad in ("javascript:alert(1)//{trace_id}", "https://t.example/", 'https://t.example/"{trace_id}'):
        with pytest.raises(ValueError, match="trace_url"):
            GatewaySettings(trace_url=bad)
