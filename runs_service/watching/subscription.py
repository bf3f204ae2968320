"""One watcher's place in the history of one run."""

import asyncio
from collections.abc import Callable

from playbooks.runs.v1.run_pb2 import Run

from servicekit.errors import ServiceError

BUFFER = 128  # changes a watcher may lag behind before reading for it pauses


class Subscription:
    """Follows one run. Call `follow`, then `next` for each change.

    `wake` is called with the run's id when there is something to read for this watcher.
    """

    def __init__(self, run_id: str, wake: Callable[[str], None]) -> None:
        self.run_id = run_id
        self.position: int | None = None  # the last sequence put into the buffer; None: not following yet
        self._wake = wake
        self._buffer: asyncio.Queue[Run | ServiceError] = asyncio.Queue()
        self._missed: int | None = 0  # the newest sequence in a hint before following; None: an unknown one
        self._behind = False  # a change found no room; reading goes on when the buffer is half empty

    @property
    def ready(self) -> bool:
        """Whether changes are wanted now."""
        return self.position is not None and not self._behind

    def should_wake(self, sequence: int | None) -> bool:
        """Return whether there is something to read now that the run has reached this sequence (None: an unknown one).

        A watcher that does not follow yet reads it once it does.
        """
        if self.position is None:
            self._missed = None if sequence is None or self._missed is None else max(self._missed, sequence)
            return False
        return self.ready and (sequence is None or sequence > self.position)

    def follow(self, after: int, *, newest: int) -> None:
        """Follow every change after this sequence. `newest`: the run's sequence, read since subscribing."""
        self.position = after
        if self.should_wake(self._missed) or newest > after:
            self._wake(self.run_id)

    async def next(self) -> Run:
        """Return the next change. Raises ServiceError when this process has ended the subscription."""
        item = await self._buffer.get()
        if isinstance(item, ServiceError):
            raise item
        if self._behind and self._buffer.qsize() <= BUFFER // 2:
            self._behind = False
            self._wake(self.run_id)
        return item

    def deliver(self, change: Run) -> None:
        """Take the change that follows the last one, if there is room for it.

        Any other is ignored: it may come from a read that began before this watcher followed, and taking it would skip
        the changes in between.
        """
        if self.position is None or change.sequence != self.position + 1:
            return
        if self._buffer.qsize() >= BUFFER:
            self._behind = True
            return
        self.position = change.sequence
        self._buffer.put_nowait(change)

    def end(self, error: ServiceError) -> None:
        """Let the watcher's next read raise `error`."""
        self._buffer.put_nowait(error)
