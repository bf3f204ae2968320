"""One watcher's stream: snapshot, changes, heartbeats, end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunResponse

from runs_service import transitions
from runs_service.runs import Runs
from runs_service.watching.hub import Watchers
from servicekit.errors import Reason, ServiceError

logger = logging.getLogger(__name__)

HEARTBEAT_AFTER = 15.0  # seconds without a message
WRITE_TIMEOUT = 5.0  # seconds a watcher may take to make room for one message

Write = Callable[[WatchRunResponse], Awaitable[None]]


class RunStream:
    """Serves streams of runs to watchers."""

    def __init__(self, runs: Runs, watchers: Watchers, *, heartbeat_after: float = HEARTBEAT_AFTER) -> None:
        self._runs = runs
        self._watchers = watchers
        self._heartbeat_after = heartbeat_after

    async def serve(self, project_id: str, run_id: str, *, after: int | None, write: Write) -> None:
        """Write what a watcher of the run is to see, and return after the terminal state.

        `after`: the sequence the watcher has; None: it wants a snapshot first. Raises ServiceError
        (RUN_NOT_FOUND, SEQUENCE_EXPIRED, VALIDATION_FAILED, WATCHER_TOO_SLOW, SHUTTING_DOWN).
        """
        # Subscribed before the read, so that no change falls between the two.
        with self._watchers.subscribe(run_id) as subscription:
            run = await self._runs.get(project_id, run_id)
            sent: Run | None = run  # what the watcher has; None: something older than what we have read
            if after is None:
                await _send(write, WatchRunResponse.SNAPSHOT, run)
                position = run.sequence
            else:
                await self._runs.check_resumable(run, after)
                position = after
                sent = run if position == run.sequence else None
            if transitions.is_terminal(run.status) and position == run.sequence:
                return
            subscription.follow(position, newest=run.sequence)
            while True:
                try:
                    async with asyncio.timeout(self._heartbeat_after):
                        sent = run = await subscription.next()
                except TimeoutError:
                    # A heartbeat must not name a sequence that the watcher was not sent: it would resume there.
                    if sent is not None:
                        await _send(write, WatchRunResponse.HEARTBEAT, sent)
                    continue
                await _send(write, WatchRunResponse.UPDATED, run)
                if transitions.is_terminal(run.status):
                    return


async def _send(write: Write, kind: WatchRunResponse.Kind.ValueType, run: Run) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await write(WatchRunResponse(kind=kind, run=run))
    except TimeoutError as error:
        # The end of the call is no sign: gRPC sends the status after the message, so it waits for the same reader.
        logger.warning("a watcher of run %s reads nothing: it is cut off at %d", run.id, run.sequence)
        raise ServiceError(
            Reason.WATCHER_TOO_SLOW,
            f"nothing was read for {WRITE_TIMEOUT:.0f} seconds; watch again with the after_sequence you have",
            metadata={"sequence": str(run.sequence)},
        ) from error
