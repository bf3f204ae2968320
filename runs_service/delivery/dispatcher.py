"""Handing committed runs to the executor: over the broker, or inline."""

import asyncio
from collections.abc import Sequence

from runs_service import messages
from runs_service.delivery.inline import InlineExecution
from runs_service.delivery.job_publisher import BATCH, JobPublisher
from runs_service.store import Dispatchable
from servicekit.background.batching import packed

CLOSE_TIMEOUT = 1.0  # seconds
FALLBACK_AFTER = 0.5  # seconds that a publish may take before its run executes inline


class Dispatcher:
    """Decides how a run reaches the executor.

    Without `queue` runs execute inline; with it and `fallback`, those that cannot be published do.
    """

    def __init__(self, queue: JobPublisher | None, inline: InlineExecution, *, fallback: bool) -> None:
        self._queue = queue
        self._inline = inline
        self._fallback = fallback
        self._in_flight: dict[str, asyncio.Future[None]] = {}  # by run id
        self._released = asyncio.get_running_loop().create_future()
        self._closed = False

    @property
    def waits_for_end(self) -> bool:
        """Whether `handed_over` may wait for the end of the run."""
        return self._queue is None or self._fallback

    def dispatch(self, items: Sequence[Dispatchable]) -> None:
        """Hand over committed runs in the background, except those that are in flight already.

        With the fallback, what cannot be published executes inline; without it the sweeper tries again.
        """
        if self._closed:
            return
        items = [item for item in items if item.run.id not in self._in_flight]
        if self._queue is None:
            for item in items:
                self._execute_inline(item)
            return
        for batch in packed(items, limit=BATCH, size=lambda item: messages.weight(item.run)):
            self._publish(self._queue, batch)

    async def handed_over(self, run_id: str) -> None:
        """Return when a dispatched run is published or its publication has failed, and when it has ended if it
        executes inline.

        Returns at once when this process is stopping. A caller that gives up waiting does not stop the run.
        """
        # A run may be in flight twice: to the broker first, then inline.
        while not self._released.done() and (in_flight := self._in_flight.get(run_id)):
            await asyncio.wait([in_flight, self._released], return_when=asyncio.FIRST_COMPLETED)

    def release(self) -> None:
        """End every `handed_over`: this process is stopping, and the runs go on."""
        if not self._released.done():
            self._released.set_result(None)

    async def close(self) -> None:
        """Give publications a moment to end, then cancel what is in flight.

        A sweeper finds runs that are not published. The executor goes on with inline runs, and the reconciler learns
        how they ended.
        """
        self._closed = True
        self.release()
        in_flight = list(self._in_flight.values())
        if in_flight and self._queue is not None:
            await asyncio.wait(in_flight, timeout=CLOSE_TIMEOUT)
        for future in in_flight:
            future.cancel()
        await asyncio.gather(*in_flight, return_exceptions=True)

    def _publish(self, queue: JobPublisher, items: Sequence[Dispatchable]) -> None:
        publication = queue.publish(items)
        self._in_flight |= {item.run.id: publication for item in items}
        publication.add_done_callback(lambda done: self._published(items, done))
        if self._fallback:
            # If they are published after all, the executor ignores the second job of a run.
            asyncio.get_running_loop().call_later(FALLBACK_AFTER, publication.cancel)

    def _published(self, items: Sequence[Dispatchable], publication: asyncio.Future[None]) -> None:
        for item in items:
            del self._in_flight[item.run.id]
        failed = publication.cancelled() or publication.exception() is not None
        if failed and self._fallback and not self._released.done():
            for item in items:
                self._execute_inline(item)

    def _execute_inline(self, item: Dispatchable) -> None:
        run_id = item.run.id
        self._in_flight[run_id] = task = asyncio.create_task(self._inline.execute(item))
        task.add_done_callback(lambda _: self._in_flight.pop(run_id))
