"""Which pages may call: those of this server's own origin, and of the origins that are configured."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import Problem

READING: Final = ("GET", "HEAD", "OPTIONS")
ALLOWED_HEADERS: Final = (
    "authorization", "content-type", "last-event-id", "if-none-match", "x-request-id", "traceparent",
)  # fmt: skip
EXPOSED_HEADERS: Final = ("etag", "link", "location", "retry-after", "x-request-id")
PREFLIGHT_SECONDS: Final = 600


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app`, for pages of `origins`, too. They send tokens in headers: cookies mean nothing here."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_SECONDS,
    )


class OriginCheck:
    """Refuses what a page of a foreign origin sends without asking first, as it can with a POST without a body.

    A token is in no cookie, so a foreign page has none; but without authentication none is needed.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request. Raises Problem."""
        if scope["method"] not in READING and not self._is_allowed(Headers(scope=scope)):
            message = "pages of this origin may not call; GATEWAY_CORS_ORIGINS has those that may"
            raise Problem(HTTPStatus.FORBIDDEN, "ORIGIN_REFUSED", message)
        await self._app(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or origin in self._origins or "*" in self._origins:
            return True
        # What no page can set. Behind a proxy the host is another than the browser's.
        if headers.get("sec-fetch-site") == "same-origin":
            return True
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
