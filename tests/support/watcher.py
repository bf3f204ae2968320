"""A watcher: the network's edge is a function that takes messages."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")


class Watcher(Generic[T]):
    """A watcher, with every message it was sent; it goes at the end of its block.

    It takes no message while `reading` is not set.
    """

    task: asyncio.Task[Any]

    def __init__(self) -> None:
        self.sent: list[T] = []
        self.reading = asyncio.Event()
        self.reading.set()

    def begin(self, serving: Coroutine[Any, Any, Any]) -> None:
        """Be served by `serving`, which writes to `take`."""
        self.task = asyncio.create_task(serving)

    async def take(self, message: T) -> None:
        """Take a message, once it reads."""
        await self.reading.wait()
        self.sent.append(message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
