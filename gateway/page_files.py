"""The page: files that browsers read, with headers that keep it strict. All its data comes from the API."""

import hashlib
import html
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.answers import is_known
from gateway.problems import Problem

FOLDER: Final = Path(__file__).parent / "page"
INDEX: Final = "index.html"
TRACE_URL: Final = b'content="TRACE_URL"'  # in the index: the gateway's setting takes its place
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing inline and nothing of others. img-src has data: for images that a style draws.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    tag: str


class PageFiles:
    """The files of `folder`, read once: what is served does not change under a browser that loads them one by one.
    `trace_url`: the address of a run's trace, with `{trace_id}` in it; "": there is none."""

    def __init__(self, folder: Path = FOLDER, *, trace_url: str = "") -> None:
        self._files = {path.name: _read(path) for path in folder.iterdir() if path.suffix in TYPES}
        index = self._files[INDEX].content.replace(TRACE_URL, f'content="{html.escape(trace_url)}"'.encode())
        self._files[INDEX] = _file(index, ".html")
        self.routes = [Route("/", self._index), Route("/page/{name}", self._file)]

    async def _index(self, request: Request) -> Response:
        return self._answer(request, INDEX)

    async def _file(self, request: Request) -> Response:
        request.scope["state"]["route"] = "/page/{name}"
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        file = self._files.get(name)
        if file is None:
            raise Problem(HTTPStatus.NOT_FOUND, "ROUTE_UNKNOWN", "the page has no such file")
        # no-cache: kept, and asked for again, so that a new release shows at once.
        headers = {"cache-control": "no-cache", "content-security-policy": POLICY, "etag": file.tag}
        if is_known(file.tag, request.headers.getlist("if-none-match")):
            return Response(None, HTTPStatus.NOT_MODIFIED, headers)
        return Response(file.content, HTTPStatus.OK, headers, file.media_type)


def _read(path: Path) -> _File:
    return _file(path.read_bytes(), path.suffix)


def _file(content: bytes, suffix: str) -> _File:
    return _File(content, TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')
