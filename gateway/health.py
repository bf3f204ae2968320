"""Whether this process lives, and whether both services serve."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from gateway.encoder import to_json
from gateway.problems import Problem
from gateway.upstream import Upstream


class Health:
    """The answers to health checks over `upstreams`. Neither has anything secret: they are open."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = upstreams
        self.is_stopping = False

    async def alive(self, _request: Request) -> Response:
        """Answer while the process answers anything."""
        return Response(to_json({"status": "alive"}), media_type="application/json")

    async def ready(self, _request: Request) -> Response:
        """Answer 200 while both services serve. Raises Problem (503), which says which of them does not."""
        found = await asyncio.gather(*(upstream.health() for upstream in self._upstreams))
        statuses = {upstream.name: status for upstream, status in zip(self._upstreams, found, strict=True)}
        if self.is_stopping:
            statuses["gateway"] = "STOPPING"
        if any(status != "SERVING" for status in statuses.values()):
            words = ", ".join(f"{name} is {status}" for name, status in statuses.items() if status != "SERVING")
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "NOT_READY", words, metadata=statuses, retry_after=1)
        return Response(to_json({"status": "ready", **statuses}), media_type="application/json")
