"""`playbook-runs cancel`."""

import asyncio

import typer
from playbooks.runs.v1.run_pb2 import Run

from runs_client.commands.options import JsonOption, ProjectOption, RunArgument
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.printing import say, say_json
from runs_client.render import status_name


@with_service_options
def cancel(
    *, services: ServiceOptions, run_id: RunArgument, project: ProjectOption, as_json: JsonOption = False
) -> None:
    """Cancel a run: nothing more of it is written. One that has ended stays as it is.

    The exit code is 0 if the run is CANCELLED, else 1.

    Example: playbook-runs cancel 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1
    """

    async def run() -> Run:
        async with services.runs(project) as client:
            return await client.cancel(project, run_id)

    found = asyncio.run(run())
    if as_json:
        say_json(found)
    else:
        say(f"run {found.id} is {status_name(found)}")
    if found.status != Run.CANCELLED:
        raise typer.Exit(1)
