"""Reads that keep PostgreSQL busy for long: bounded, and shared by identical calls."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from servicekit.errors import Reason, ServiceError
from servicekit.telemetry.metrics import Metrics

MAX_WAITING = 100  # calls of one project
RETRY_AFTER = timedelta(seconds=1)
LIMIT = "heavy_reads_of_a_project"  # in the metric limits_reached


class HeavyReads:
    """Runs at most one read at a time for each project, and at most `at_once` in this process; the rest queue.

    Identical calls share an answer: a call joins the read that is next in the queue, never one that has begun,
    so that what it gets is as new as the call. So a project has one read under way and one of each kind in the queue,
    however many calls come. A read that has begun goes on when its callers leave, as PostgreSQL would.
    """

    def __init__(self, *, at_once: int, metrics: Metrics) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._lines: dict[str, _Line] = {}
        self._refused = metrics.limits_reached.labels(LIMIT)

    async def share(self, project_id: str, kind: str, read: Callable[[], Awaitable[Any]]) -> Any:
        """Return what `read` returns, or raise what it raises; reads of one project and `kind` are the same.

        Raises ServiceError (TOO_MANY_CALLS) when MAX_WAITING calls of the project wait already.
        """
        line = self._lines.setdefault(project_id, _Line())
        if line.callers >= MAX_WAITING:
            self._refused.inc()
            raise ServiceError(
                Reason.TOO_MANY_CALLS,
                f"{MAX_WAITING} calls of this kind are waiting for project {project_id!r} already; wait for an answer "
                "before you ask again",
                metadata={"project_id": project_id},
                retry_after=RETRY_AFTER,
            )
        line.callers += 1
        try:
            return await asyncio.shield(line.next.get(kind) or self._queue(project_id, line, kind, read))
        finally:
            line.callers -= 1
            self._forget_if_idle(project_id, line)

    async def close(self) -> None:
        """Cancel what is under way and queued."""
        tasks = [task for line in self._lines.values() for task in line.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _queue(
        self, project_id: str, line: "_Line", kind: str, read: Callable[[], Awaitable[Any]]
    ) -> asyncio.Task[Any]:
        task = line.next[kind] = asyncio.create_task(self._in_turn(line, kind, read), name=f"heavy-read-{kind}")
        line.tasks.add(task)

        def ended(_: object) -> None:
            line.tasks.discard(task)
            if not task.cancelled():
                task.exception()  # its callers may all have left: else asyncio would warn
            self._forget_if_idle(project_id, line)

        task.add_done_callback(ended)
        return task

    async def _in_turn(self, line: "_Line", kind: str, read: Callable[[], Awaitable[Any]]) -> Any:
        async with line.turn, self._slots:
            del line.next[kind]  # later callers may have written what this read misses
            return await read()

    def _forget_if_idle(self, project_id: str, line: "_Line") -> None:
        if not line.callers and not line.tasks:
            self._lines.pop(project_id, None)


@dataclass(eq=False)
class _Line:
    """The reads of one project."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0
    next: dict[str, asyncio.Task[Any]] = field(default_factory=dict)  # not begun, by kind
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
