"""Watching a run from a command: one that is there, or one that is about to be created."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunResponse, RetryRunResponse

from runs_client.client import RunsClient
from runs_client.endpoints import ServiceOptions
from runs_client.errors import ServiceCallError
from runs_client.failures import CommandError
from runs_client.printing import console, say, say_json
from runs_client.render import status_name
from runs_client.views import follow, view_for
from runs_client.watch import is_terminal

Created = CreateRunResponse | RetryRunResponse

LOOK_INTERVAL = 0.4  # seconds that a call gets to answer before its run is looked for, and between two looks
LOOK_AT = 20  # newest runs


async def watch_run(
    client: RunsClient, services: ServiceOptions, run: Run, *, after_sequence: int | None = None, as_json: bool
) -> Run:
    """Watch a run to its end; while it waits in the queue, say why."""
    with view_for(console(), as_json=as_json) as view:
        responses = client.watch(run.project_id, run.id, after_sequence=after_sequence)
        return await follow(responses, view, run, lambda: why_queued(services, run.project_id))


async def watch_created(
    client: RunsClient,
    services: ServiceOptions,
    call: Coroutine[Any, Any, Created],
    newest: Callable[[], AsyncIterator[Run]],
    is_ours: Callable[[Run], bool],
    *,
    as_json: bool,
) -> Run:
    """Make the call that creates a run, and watch the run to its end.

    Without a broker the call answers when the run has ended. So that progress shows before, the run is looked for
    among the `newest` meanwhile. A script gets the call's answer first, and waits for it.
    """
    answering = asyncio.ensure_future(call)
    try:
        early = None if as_json else await _run_before_answer(answering, newest, is_ours)
        if early is not None:
            say(f"created run {early.id} ({status_name(early)})")
            ended = await watch_run(client, services, early, after_sequence=0, as_json=as_json)
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
    print_created(answer, as_json=as_json)
    return await watch_run(client, services, answer.run, as_json=as_json)


async def _run_before_answer(
    answering: "asyncio.Future[Created]", newest: Callable[[], AsyncIterator[Run]], is_ours: Callable[[Run], bool]
) -> Run | None:
    """Return the run of a call that has not answered yet; None when the call has ended."""
    while True:
        await asyncio.wait([answering], timeout=LOOK_INTERVAL)
        if answering.done():
            return None
        looked_at = 0
        async for run in newest():
            if not is_terminal(run) and is_ours(run):
                return run
            looked_at += 1
            if looked_at == LOOK_AT:
                break


async def why_queued(services: ServiceOptions, project: str) -> str:
    """Return a line that says why a run is still QUEUED, as far as a client can know."""
    try:
        async with services.executor(project) as executor:
            await executor.require_serving()
            return (
                f"queued: executor-service at {executor.target} has not started the run yet: it is busy with others, "
                "or the broker does not bring it the run"
            )
    except ServiceCallError as error:
        return f"queued: no executor serves at {error.target}; the run starts when one does"
    except CommandError:
        return "queued: no executor has started the run yet; is executor-service running?"


def print_created(answer: Created, *, as_json: bool) -> None:
    """Print what a call that creates a run has answered."""
    if as_json:
        say_json(answer)
    else:
        verb = "created" if answer.created else "found"
        say(f"{verb} run {answer.run.id} ({status_name(answer.run)})")
