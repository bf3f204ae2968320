"""Celery's client: `delay`, results by `get`, many results by `join_native`."""

import time
from typing import Any

from celery.result import ResultSet

from benchmarks.harness.load import receive, send
from benchmarks.rivals.celery_app import noop

TIMEOUT = 120  # seconds


def enqueue(spec: dict[str, Any]) -> None:
    """Send tasks one after the other: `delay` blocks for one round trip, and threads only share the GIL."""
    for _ in range(spec["warmup"]):
        noop.delay()
    started = time.perf_counter()
    for _ in range(spec["count"]):
        noop.delay()
    send({"seconds": time.perf_counter() - started})


def drain(spec: dict[str, Any]) -> None:
    """Send tasks while the worker is stopped, then read all their results."""
    results = ResultSet([noop.delay() for _ in range(spec["count"])])
    send("filled")
    read = results.join_native(timeout=TIMEOUT)
    ended = time.monotonic()
    send({"ended": ended, "read": len(read), "successful": results.successful()})


def latency(spec: dict[str, Any]) -> None:
    """Send one task, wait for its result, then the next."""
    times = []
    for number in range(spec["warmup"] + spec["count"]):
        started = time.perf_counter()
        noop.delay().get(timeout=TIMEOUT)
        if number >= spec["warmup"]:
            times.append(time.perf_counter() - started)
    send({"times": times})


if __name__ == "__main__":
    asked = receive()
    {"enqueue": enqueue, "drain": drain, "latency": latency}[asked["work"]](asked)
