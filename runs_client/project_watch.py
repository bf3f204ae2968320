"""Watching all runs of a project, over any number of connections."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest, WatchRunsRequest, WatchRunsResponse

from runs_client.connection import Connection
from runs_client.errors import ServiceCallError
from runs_client.resuming import GIVE_UP_AFTER, IDLE_TIMEOUT, ResumingWatch

if TYPE_CHECKING:
    from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceAsyncStub


class ProjectWatch(ResumingWatch[WatchRunsResponse]):
    """One watcher of a project: resumes after the last message it saw when the connection is cut.

    `request` says what to watch, and after which position.
    """

    def __init__(
        self,
        connection: Connection,
        stub: "RunsServiceAsyncStub",
        request: WatchRunsRequest,
        *,
        idle_timeout: float = IDLE_TIMEOUT,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> None:
        super().__init__(connection, idle_timeout=idle_timeout, give_up_after=give_up_after)
        self._stub = stub
        self._request = request

    async def responses(self) -> AsyncGenerator[WatchRunsResponse, None]:
        """Yield what WatchRuns sends, each change once, without an end.

        After an absence longer than changes are kept, it goes on from a new list of SNAPSHOTs; when its token expires,
        with the next one that the connection's function has. Raises ServiceCallError when the service refuses, or when
        it could not be reached for `give_up_after` seconds.
        """
        while True:
            try:
                async with aclosing(self._one_stream()) as stream:
                    async for response in stream:
                        yield response
                failure = self._unavailable("the stream ended")
            except ServiceCallError as error:
                if error.reason == "POSITION_EXPIRED" and self._request.after:
                    self._request.after = ""
                    continue
                if not await self._can_resume(error):
                    raise
                failure = error
            await self._pause(failure)

    def _call(self) -> tuple[Callable[..., Any], object]:
        return self._stub.WatchRuns, self._request

    def _advance(self, response: WatchRunsResponse) -> None:
        self._request.after = response.position

    async def _ask(self) -> None:
        request = ListRunsRequest(project_id=self._request.project_id, limit=1)
        await self._connection.unary(self._stub.ListRuns, request)
