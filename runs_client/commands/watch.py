"""`playbook-runs watch`."""

import asyncio
from contextlib import aclosing
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import WatchRunsResponse

from runs_client.commands.options import (
    INT64_MAX,
    JsonOption,
    OptionalRunArgument,
    PlaybookId,
    ProjectOption,
    RunType,
    named_or_left_out,
)
from runs_client.commands.outcome import end_with
from runs_client.commands.services import with_service_options
from runs_client.commands.watching import watch_run
from runs_client.endpoints import ServiceOptions
from runs_client.printing import say, say_json
from runs_client.views import change_line


@with_service_options
def watch(
    *,
    services: ServiceOptions,
    run_id: OptionalRunArgument = None,
    project: ProjectOption,
    after_sequence: Annotated[
        int | None,
        typer.Option(min=0, max=INT64_MAX, metavar="N", help="Every change after this one. [default: from now on]"),
    ] = None,
    playbook: Annotated[PlaybookId | None, typer.Option(help="Without RUN: only runs of this playbook.")] = None,
    run_type: Annotated[RunType | None, typer.Option("--type", help="Without RUN: only runs of this type.")] = None,
    after: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION",
            help="Without RUN: every change after this position, which --json prints. [default: the newest runs first]",
            callback=named_or_left_out,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a run until it ends: a progress bar at a terminal, a line a change in a pipe.

    Without RUN: the project's newest runs, then a line for each change of any run, until Ctrl-C. A connection that is
    cut is taken up again where it was. The exit code is 0 if the run succeeds, else 1. Ctrl-C ends the watch; runs go
    on.

    Example: playbook-runs watch 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1 --after-sequence 0
    """
    if run_id is None:
        if after_sequence is not None:
            raise typer.BadParameter(
                "it goes with RUN; a project has positions: --after", param_hint="--after-sequence"
            )
        kind = Run.Type.Value(run_type) if run_type else Run.TYPE_UNSPECIFIED
        asyncio.run(_watch_project(services, project, playbook or "", kind, after or "", as_json=as_json))
        return
    for option, value in (("--playbook", playbook), ("--type", run_type), ("--after", after)):
        if value is not None:
            raise typer.BadParameter("it goes with a project's watch, without RUN", param_hint=option)
    watched = run_id

    async def run() -> Run:
        async with services.runs(project) as client:
            # First, because it fails at once when no server answers; a watch would wait for the server's return.
            found = await client.get(project, watched)
            return await watch_run(client, services, found, after_sequence=after_sequence, as_json=as_json)

    end_with(asyncio.run(run()), services, as_json=as_json)


async def _watch_project(
    services: ServiceOptions,
    project: str,
    playbook_id: str,
    run_type: Run.Type.ValueType,
    after: str,
    *,
    as_json: bool,
) -> None:
    """Print a project's newest runs, the oldest of them first, and then each change, until cancelled."""
    async with services.runs(project) as client:
        await client.require_serving()  # fails at once when no server answers
        listed: list[Run] = []
        watching = client.watch_all(project, playbook_id=playbook_id, run_type=run_type, after=after)
        async with aclosing(watching):
            async for response in watching:
                if as_json:
                    say_json(response)
                elif response.kind == WatchRunsResponse.SNAPSHOT:
                    listed.append(response.run)
                else:
                    for run in reversed(listed):  # as they go on: the newest change is the last line
                        _print_change(run)
                    listed.clear()
                    if response.kind == WatchRunsResponse.UPDATED:
                        _print_change(response.run)


def _print_change(run: Run) -> None:
    say(f"{run.id}  {change_line(run)}")
