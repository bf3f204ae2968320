"""Procrastinate's worker: `python -m benchmarks.rivals.procrastinate_worker`, after the same with `migrate`.

A module of its own: a task is known by the name of the module that it is imported from.
"""

import asyncio
import sys

from benchmarks.rivals.procrastinate_app import app

CONCURRENCY = 30  # the documentation's own example of jobs at the same time


async def migrate() -> None:
    """Make procrastinate's schema."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    """Work until killed."""
    async with app.open_async():
        print("ready", flush=True)
        await app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)


if __name__ == "__main__":
    asyncio.run(migrate() if "migrate" in sys.argv else work())
