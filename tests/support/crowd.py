"""Projects that are too large to be put through the API, and callers that come in crowds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import psycopg


def insert_products(url: str, project: str, count: int) -> None:
    """Give an existing project `count` products without SEO fields, each with a content of its own."""
    with psycopg.connect(url, autocommit=True) as database:
        database.execute(
            """INSERT INTO executor.products
                 (project_id, id, external_id, title, description, seo_title, seo_description)
               SELECT %s, 'product-' || lpad(n::text, 8, '0'), '', 'Thing ' || n, '<p>Good.</p>', '', ''
               FROM generate_series(1, %s) AS n""",
            (project, count),
        )


@asynccontextmanager
async def crowd(size: int, call: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Have `size` callers, within the block, each make the `call` again and again, whatever comes of it."""

    async def insist() -> None:
        while True:
            with suppress(Exception):
                await call()

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(insist()) for _ in range(size)]
        yield
        for caller in callers:
            caller.cancel()


async def longest_hold(while_doing: Awaitable[object]) -> float:
    """Return for how many seconds, at most, the event loop turned to nothing else while it did this.

    Only time in which this process worked counts, on whatever thread: while other processes had the machine, nothing of
    ours held the loop.
    """
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        before, worked_before = time.perf_counter(), time.process_time()
        while not done.is_set():
            await asyncio.sleep(0)
            now, worked = time.perf_counter(), time.process_time()
            longest = max(longest, min(now - before, worked - worked_before))
            before, worked_before = now, worked

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        await while_doing
    finally:
        done.set()
        await watching
    return longest
