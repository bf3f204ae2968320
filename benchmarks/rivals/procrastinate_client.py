"""Procrastinate's client: `defer_async`, and job lists."""

import asyncio
import time
from typing import Any

from procrastinate.jobs import Status

from benchmarks.harness.load import receive, send
from benchmarks.rivals.procrastinate_app import app, noop

POLL = 0.05  # seconds between looks for jobs that are still to be done
BATCH = 1_000


async def enqueue(spec: dict[str, Any]) -> None:
    """Defer jobs, as many at a time as the product's client has calls under way."""

    async def defer(count: int) -> None:
        numbers = iter(range(count))

        async def one_after_another() -> None:
            for _ in numbers:
                await noop.defer_async()

        await asyncio.gather(*(one_after_another() for _ in range(spec["concurrency"])))

    await defer(spec["warmup"])
    started = time.perf_counter()
    await defer(spec["count"])
    send({"seconds": time.perf_counter() - started})


async def drain(spec: dict[str, Any]) -> None:
    """Defer jobs while the worker is stopped, then wait for all, and read how they ended.

    There are no results to be read: a job's state is all that procrastinate keeps.
    """
    ids: set[int] = set()
    while len(ids) < spec["count"]:
        ids |= set(await noop.batch_defer_async(*({} for _ in range(min(BATCH, spec["count"] - len(ids))))))
    send("filled")
    while any(queue["todo"] or queue["doing"] for queue in await app.job_manager.list_queues_async()):  # noqa: ASYNC110
        await asyncio.sleep(POLL)
    read = {job.id for job in await app.job_manager.list_jobs_async(status="succeeded")}
    send({"ended": time.monotonic(), "read": len(read & ids), "successful": True})


async def latency(spec: dict[str, Any]) -> None:
    """Defer one job, ask for its status until it has succeeded, then the next. There is no result to wait for."""
    times = []
    for number in range(spec["warmup"] + spec["count"]):
        started = time.perf_counter()
        job_id = await noop.defer_async()
        while await app.job_manager.get_job_status_async(job_id) is not Status.SUCCEEDED:
            pass
        if number >= spec["warmup"]:
            times.append(time.perf_counter() - started)
    send({"times": times})


async def main(spec: dict[str, Any]) -> None:
    """Do what is asked."""
    async with app.open_async():
        await {"enqueue": enqueue, "drain": drain, "latency": latency}[spec["work"]](spec)


if __name__ == "__main__":
    asyncio.run(main(receive()))
