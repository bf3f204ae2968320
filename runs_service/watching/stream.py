"""One watcher's stream: snapshot, changes, heartbeats, end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunResponse

from runs_service import transitions
from runs_service.queries import RunQueries
from runs_service.watching.hub import Watchers
from servicekit.errors import Reason, ServiceError
from servicekit.telemetry.trace_context import current_trace
from servicekit.telemetry.tracing import current_span, is_recording

logger = logging.getLogger(__name__)

HEARTBEAT_AFTER = 15.0  # seconds without a message
WRITE_TIMEOUT = 5.0  # seconds a watcher may take to make room for one message

Write = Callable[[WatchRunResponse], Awaitable[None]]


class RunStream:
    """Streams runs to watchers."""

    def __init__(
        self,
        queries: RunQueries,
        watchers: Watchers,
        *,
        heartbeat_after: float = HEARTBEAT_AFTER,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        self._queries = queries
        self._watchers = watchers
        self._heartbeat_after = heartbeat_after
        self._write_timeout = write_timeout

    async def serve(self, project_id: str, run_id: str, *, after: int | None, write: Write) -> None:
        """Write a run's changes, and return after its terminal state.

        `after`: the sequence the watcher has; None: it wants a snapshot first. Raises ServiceError
        (RUN_NOT_FOUND, SEQUENCE_EXPIRED, VALIDATION_FAILED, WATCHER_TOO_SLOW, SHUTTING_DOWN).
        """
        # Subscribed before the read, so that no change falls between the two.
        with self._watchers.subscribe(run_id) as subscription:
            run = await self._queries.get(project_id, run_id)
            if is_recording():
                await self._link(run)
            sent: Run | None = run  # what the watcher has; None: something older than what was read
            if after is None:
                await self._send(write, WatchRunResponse.SNAPSHOT, run)
                position = run.sequence
            else:
                await self._queries.check_resumable(run, after)
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
                        await self._send(write, WatchRunResponse.HEARTBEAT, sent)
                    continue
                await self._send(write, WatchRunResponse.UPDATED, run)
                if transitions.is_terminal(run.status):
                    return

    async def wait_for_end(self, run: Run) -> Run:
        """Return `run` once it has ended; waits for as long as the caller does. Raises ServiceError (SHUTTING_DOWN)."""
        with self._watchers.subscribe(run.id) as subscription:
            run = await self._queries.get(run.project_id, run.id)
            subscription.follow(run.sequence, newest=run.sequence)
            while not transitions.is_terminal(run.status):
                try:
                    run = await subscription.next()
                except ServiceError as error:
                    if error.reason is not Reason.SHUTTING_DOWN:
                        raise
                    raise _left_early(run, error) from error
        return run

    async def _link(self, run: Run) -> None:
        """Let the span of a watch name the run's trace, unless it is in it."""
        here = current_trace()
        if run.trace_id and (here is None or here.trace_id != run.trace_id):
            trace = await self._queries.trace(run.id)
            if trace is not None:
                current_span().link(trace)

    async def _send(self, write: Write, kind: WatchRunResponse.Kind.ValueType, run: Run) -> None:
        try:
            async with asyncio.timeout(self._write_timeout):
                await write(WatchRunResponse(kind=kind, run=run))
        except TimeoutError as error:
            # The watcher cannot learn of this from the end of its call alone: gRPC sends the status after the
            # message, so it waits for the same reader.
            logger.warning("a watcher of run %s reads nothing: it is cut off at %d", run.id, run.sequence)
            raise ServiceError(
                Reason.WATCHER_TOO_SLOW,
                f"nothing was read for {self._write_timeout:.0f} seconds; watch again with the after_sequence you have",
                metadata={"sequence": str(run.sequence)},
            ) from error


def _left_early(run: Run, error: ServiceError) -> ServiceError:
    """Return the error for a caller that waits for the end of a run at a server that stops: it is no watcher."""
    return ServiceError(
        error.reason,
        f"this server is stopping, and run {run.id} goes on; GetRun shows how it stands, WatchRun waits for its end",
        metadata={"run_id": run.id},
        retry_after=error.retry_after,
    )
