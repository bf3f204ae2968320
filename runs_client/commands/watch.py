"""`playbook-runs watch`."""

import asyncio
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import Run

from runs_client.commands.options import INT64_MAX, JsonOption, ProjectOption, RunArgument
from runs_client.commands.outcome import end_with
from runs_client.commands.services import with_service_options
from runs_client.commands.watching import watch_run
from runs_client.endpoints import ServiceOptions


@with_service_options
def watch(
    *,
    services: ServiceOptions,
    run_id: RunArgument,
    project: ProjectOption,
    after_sequence: Annotated[
        int | None,
        typer.Option(min=0, max=INT64_MAX, metavar="N", help="Every change after this one. [default: from now on]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a run until it ends: a progress bar at a terminal, a line a change in a pipe.

    A connection that is cut is taken up again where it was. The exit code is 0 if the run succeeds, else 1. Ctrl-C
    ends the watch; the run goes on.

    Example: playbook-runs watch 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1 --after-sequence 0
    """

    async def run() -> Run:
        async with services.runs(project) as client:
            # First, because it fails at once when no server answers; a watch would wait for the server's return.
            found = await client.get(project, run_id)
            return await watch_run(client, services, found, after_sequence=after_sequence, as_json=as_json)

    end_with(asyncio.run(run()), services, as_json=as_json)
