"""Waiting for what must come true."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

INTERVAL = 0.02  # seconds between two looks
TIMEOUT = 30.0  # seconds; far beyond what anything takes, on a busy machine too


async def eventually(condition: Callable[[], object | Awaitable[object]], timeout: float = TIMEOUT) -> None:
    """Return when `condition()` (or what it awaits) is true; fail, with its last value, after `timeout` seconds."""
    until = asyncio.get_running_loop().time() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return
        assert asyncio.get_running_loop().time() < until, f"not within {timeout} s; the last look gave {value!r}"
        await asyncio.sleep(INTERVAL)
