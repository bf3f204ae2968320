"""Watching a run from a command, and why it waits."""

import grpc
from playbooks.runs.v1.run_pb2 import Run

from runs_client.client import RunsClient
from runs_client.endpoints import ServiceOptions
from runs_client.errors import ServiceCallError
from runs_client.executor import ExecutorClient
from runs_client.failures import CommandError
from runs_client.printing import console
from runs_client.views import follow, view_for


async def watch_run(
    client: RunsClient, services: ServiceOptions, run: Run, *, after_sequence: int | None = None, as_json: bool
) -> Run:
    """Watch a run to its end; while it waits in the queue, say why."""
    with view_for(console(), as_json=as_json) as view:
        responses = client.watch(run.project_id, run.id, after_sequence=after_sequence)
        return await follow(responses, view, run, lambda: why_queued(client, services, run))


async def why_queued(client: RunsClient, services: ServiceOptions, run: Run) -> str:
    """Return a line that says why a run is still QUEUED, as far as a client can know."""
    try:
        if problem := await client.queue_problem(run.project_id, run.id):
            return f"queued; {problem}; the run starts when that is mended"
    except ServiceCallError:
        return "queued; runs-service does not answer now"
    try:
        async with services.executor(run.project_id) as executor:
            await executor.require_serving()
            return await _why_not_taken(executor)
    except ServiceCallError as error:
        return f"queued; no executor serves at {error.target}; the run starts when one does"
    except CommandError:
        return "queued; no executor has started the run yet; is executor-service running?"


async def _why_not_taken(executor: ExecutorClient) -> str:
    """Return why an executor that serves has not taken a run."""
    try:
        await executor.require_serving("broker")
    except ServiceCallError as error:
        if error.code is grpc.StatusCode.UNAVAILABLE:
            return f"queued; executor-service at {executor.target} cannot use the broker: its log says why"
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise
    return f"queued; executor-service at {executor.target} is busy with other runs, or the run has not reached it yet"
