"""HTTP as clients of the gateway speak it: requests with a token, and event streams."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

TIMEOUT = 30.0  # seconds; far beyond what any takes


def client(url: str, token: str = "", **options: Any) -> httpx2.AsyncClient:
    """Return a client of the gateway at `url`; use it with `async with`."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, trust_env=False, **options)


@dataclass
class Event:
    """One Server-Sent Event; a comment has its text as `comment`."""

    id: str = ""
    name: str = ""
    data: str = ""
    comment: str = ""

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class EventStream:
    """An open event stream."""

    response: httpx2.Response
    last_id: str = ""
    _lines: AsyncIterator[str] = field(init=False)

    def __post_init__(self) -> None:
        self._lines = self.response.aiter_lines()

    async def next(self, timeout: float = TIMEOUT) -> Event | None:
        """Return the next event or comment; None: the stream has ended."""
        event = Event()
        async with asyncio.timeout(timeout):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                match name:
                    case "id":
                        event.id = self.last_id = value
                    case "event":
                        event.name = value
                    case "data":
                        event.data = value
                    case "" if line:
                        event.comment = value
                    case "" if event != Event():
                        return event
        return None

    async def rest(self, timeout: float = TIMEOUT) -> list[Event]:
        """Return all events until the end."""
        events = []
        while (event := await self.next(timeout)) is not None:
            if not event.comment:
                events.append(event)
        return events


@asynccontextmanager
async def watching(
    http: httpx2.AsyncClient, path: str, last_id: str = "", headers: Mapping[str, str] | None = None
) -> AsyncIterator[EventStream]:
    """Open an event stream."""
    resume = {"last-event-id": last_id} if last_id else {}
    async with http.stream("GET", path, headers={**resume, **(headers or {})}) as response:
        yield EventStream(response)
