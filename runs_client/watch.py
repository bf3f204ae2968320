"""Watching a run to its end, over any number of connections."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import GetRunRequest, WatchRunRequest, WatchRunResponse

from runs_client.connection import Connection
from runs_client.errors import ServiceCallError
from runs_client.resuming import GIVE_UP_AFTER, IDLE_TIMEOUT, ResumingWatch

if TYPE_CHECKING:
    from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceAsyncStub

TERMINAL = frozenset({Run.SUCCEEDED, Run.FAILED, Run.STALE, Run.CANCELLED})


def is_terminal(run: Run) -> bool:
    """Whether the run has ended and will never change again."""
    return run.status in TERMINAL


class RunWatch(ResumingWatch[WatchRunResponse]):
    """One watcher of one run: resumes at the last change it saw when the connection is cut."""

    def __init__(
        self,
        connection: Connection,
        stub: "RunsServiceAsyncStub",
        project_id: str,
        run_id: str,
        *,
        after_sequence: int | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> None:
        super().__init__(connection, idle_timeout=idle_timeout, give_up_after=give_up_after)
        self._stub = stub
        self._project_id = project_id
        self._run_id = run_id
        self._position = after_sequence  # the sequence of the last change seen; None: start with a snapshot

    async def responses(self) -> AsyncGenerator[WatchRunResponse, None]:
        """Yield what WatchRun sends, each change once and in order, up to the run's end.

        After an absence longer than changes are kept, it goes on from a new SNAPSHOT; when its token expires, with the
        next one that the connection's function has. Raises ServiceCallError when the service refuses, or when it could
        not be reached for `give_up_after` seconds.
        """
        while True:
            try:
                async with aclosing(self._one_stream()) as stream:
                    async for response in stream:
                        yield response
                        if is_terminal(response.run):
                            return
                if await self._has_seen_last_change():
                    return
                failure = self._unavailable("the stream ended before the run did")
            except ServiceCallError as error:
                if error.reason == "SEQUENCE_EXPIRED" and self._position is not None:
                    self._position = None
                    continue
                if not await self._can_resume(error):
                    raise
                failure = error
            await self._pause(failure)

    def _call(self) -> tuple[Callable[..., Any], object]:
        request = WatchRunRequest(project_id=self._project_id, run_id=self._run_id, after_sequence=self._position)
        return self._stub.WatchRun, request

    def _advance(self, response: WatchRunResponse) -> None:
        self._position = response.run.sequence

    async def _ask(self) -> None:
        await self._get()

    async def _has_seen_last_change(self) -> bool:
        """Whether a stream ended without a message because we had the run's last change already."""
        if self._position is None:
            return False
        run = await self._get()
        return is_terminal(run) and run.sequence <= self._position

    async def _get(self) -> Run:
        request = GetRunRequest(project_id=self._project_id, run_id=self._run_id)
        return (await self._connection.unary(self._stub.GetRun, request)).run
