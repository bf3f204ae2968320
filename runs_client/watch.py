"""Watching a run to its end, over any number of connections."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import GetRunRequest, WatchRunRequest, WatchRunResponse

from runs_client.connection import Connection, Metadata
from runs_client.errors import ServiceCallError

if TYPE_CHECKING:
    from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceAsyncStub

TERMINAL = frozenset({Run.SUCCEEDED, Run.FAILED, Run.STALE, Run.CANCELLED})

IDLE_TIMEOUT = 45.0  # seconds without a message, three heartbeats, after which the connection counts as dead
FIRST_DELAY, LONGEST_DELAY = 0.1, 2.0  # seconds between connections
GIVE_UP_AFTER = 60.0  # seconds without an answer of the service

_TRANSIENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
# What a connection that is cut in the middle looks like, when no service gave a reason.
_CUT = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)


def is_terminal(run: Run) -> bool:
    """Whether the run has ended and will never change again."""
    return run.status in TERMINAL


class RunWatch:
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
        self._connection = connection
        self._stub = stub
        self._project_id = project_id
        self._run_id = run_id
        self._position = after_sequence  # the sequence of the last change seen; None: start with a snapshot
        self._idle_timeout = idle_timeout
        self._give_up_after = give_up_after
        self._metadata: Metadata = ()  # what the last stream was opened with
        self._last_answer_at = 0.0
        self._delay = FIRST_DELAY

    async def responses(self) -> AsyncGenerator[WatchRunResponse, None]:
        """Yield what WatchRun sends, each change once and in order, up to the run's end.

        After an absence longer than changes are kept, it goes on from a new SNAPSHOT; when its token expires, with the
        next one that the connection's function has. Raises ServiceCallError when the service refuses, or when it could
        not be reached for `give_up_after` seconds.
        """
        self._last_answer_at = asyncio.get_running_loop().time()
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
                if not (_is_transient(error) or await self._has_new_token(error)):
                    raise
                failure = error
            await self._pause(failure)

    async def _one_stream(self) -> AsyncGenerator[WatchRunResponse, None]:
        """Yield the messages of one call, until it ends or is cut."""
        request = WatchRunRequest(project_id=self._project_id, run_id=self._run_id, after_sequence=self._position)
        self._metadata = await self._connection.metadata()
        call = self._stub.WatchRun(request, metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(self._idle_timeout):
                    response = await call.read()
                if not isinstance(response, WatchRunResponse):
                    return  # grpc.aio.EOF
                self._advance(response)
                yield response
        except grpc.aio.AioRpcError as error:
            raise ServiceCallError.from_call(error, self._connection.target) from error
        except TimeoutError as error:
            raise self._unavailable(f"nothing came for {self._idle_timeout:.0f} s, not even a heartbeat") from error
        finally:
            call.cancel()

    def _unavailable(self, message: str) -> ServiceCallError:
        return ServiceCallError(grpc.StatusCode.UNAVAILABLE, "", message, target=self._connection.target)

    def _advance(self, response: WatchRunResponse) -> None:
        self._position = response.run.sequence
        self._last_answer_at = asyncio.get_running_loop().time()
        self._delay = FIRST_DELAY

    async def _has_seen_last_change(self) -> bool:
        """Whether a stream ended without a message because we had the run's last change already."""
        if self._position is None:
            return False
        request = GetRunRequest(project_id=self._project_id, run_id=self._run_id)
        run = (await self._connection.unary(self._stub.GetRun, request)).run
        return is_terminal(run) and run.sequence <= self._position

    async def _has_new_token(self, error: ServiceCallError) -> bool:
        """Whether the token has expired and there is another one."""
        return error.reason == "TOKEN_EXPIRED" and await self._connection.metadata() != self._metadata

    async def _pause(self, failure: ServiceCallError) -> None:
        """Wait before the next connection, longer each time; raise `failure` when the service is away for too long."""
        if asyncio.get_running_loop().time() - self._last_answer_at > self._give_up_after:
            await self._require_answer(failure)
        await asyncio.sleep(self._delay * random.uniform(0.5, 1))  # noqa: S311  # spreads watchers, hides nothing
        self._delay = min(self._delay * 2, LONGEST_DELAY)

    async def _require_answer(self, failure: ServiceCallError) -> None:
        """Raise `failure` unless the service answers.

        Streams that are cut before the first heartbeat have no message while the run waits: that does not mean that
        the service is away.
        """
        request = GetRunRequest(project_id=self._project_id, run_id=self._run_id)
        try:
            await self._connection.unary(self._stub.GetRun, request)
        except ServiceCallError:
            raise failure from None
        self._last_answer_at = asyncio.get_running_loop().time()


def _is_transient(error: ServiceCallError) -> bool:
    return error.code in _TRANSIENT or (error.code in _CUT and not error.reason)
