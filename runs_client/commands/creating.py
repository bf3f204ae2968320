"""Making a run from a command: with a broker the call answers at once, without one when the run has ended."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunResponse, RetryRunResponse

from runs_client.client import RunsClient
from runs_client.commands import next_step
from runs_client.commands.watching import watch_run
from runs_client.endpoints import ServiceOptions
from runs_client.errors import ServiceCallError
from runs_client.printing import say, say_json, warn
from runs_client.render import status_name
from runs_client.watch import is_terminal

Created = CreateRunResponse | RetryRunResponse

LOOK_INTERVAL = 0.4  # seconds that a call gets to answer before its run is looked for, and between two looks
LOOK_AT = 20  # newest runs


class Creation:
    """A call that creates a run, and the run, which is looked for while the call has not answered.

    `newest` yields the runs to look among, and `is_ours` says whether one is what the call asks for.
    """

    def __init__(
        self,
        client: RunsClient,
        services: ServiceOptions,
        call: Callable[[], Coroutine[Any, Any, Created]],
        newest: Callable[[], AsyncIterator[Run]],
        is_ours: Callable[[Run], bool],
        *,
        as_json: bool,
    ) -> None:
        self._client = client
        self._services = services
        self._call = call
        self._newest = newest
        self._is_ours = is_ours
        self._as_json = as_json

    async def answered(self) -> None:
        """Make the call and print its answer; when that takes a while, say meanwhile what it waits for."""
        answering = asyncio.ensure_future(self._call())
        try:
            if early := await self._run_before_answer(answering):
                show = warn if self._as_json else say
                show(f"run {early.id} is {status_name(early)}; without a broker the call answers when it has ended")
                show(next_step.to_watch(early, self._services))
            self._print(await answering)
        finally:
            answering.cancel()

    async def watched(self) -> Run:
        """Make the call, print what it made, and watch the run to its end, from the first second on."""
        before = {run.id async for run in self._looked_at()}
        answering = asyncio.ensure_future(self._call())
        try:
            if early := await self._run_before_answer(answering):
                self._print(CreateRunResponse(run=early, created=early.id not in before))
                ended = await watch_run(self._client, self._services, early, after_sequence=0, as_json=self._as_json)
                try:
                    if (await answering).run.id == early.id:
                        return ended
                except ServiceCallError as error:
                    if error.code not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                        raise
                    return ended  # the call ended before the run, which goes on by itself
            answer = await answering
        finally:
            answering.cancel()
        self._print(answer)
        return await watch_run(self._client, self._services, answer.run, as_json=self._as_json)

    async def _run_before_answer(self, answering: "asyncio.Future[Created]") -> Run | None:
        """Return the run of a call that has not answered yet; None when the call has ended."""
        while True:
            await asyncio.wait([answering], timeout=LOOK_INTERVAL)
            if answering.done():
                return None
            async for run in self._looked_at():
                if not is_terminal(run) and self._is_ours(run):
                    return run

    async def _looked_at(self) -> AsyncIterator[Run]:
        looked_at = 0
        async for run in self._newest():
            yield run
            looked_at += 1
            if looked_at == LOOK_AT:
                return

    def _print(self, answer: Created) -> None:
        if self._as_json:
            say_json(answer)
        else:
            verb = "created" if answer.created else "found"
            say(f"{verb} run {answer.run.id} ({status_name(answer.run)})")
