"""`playbook-runs get` and `playbook-runs list`: the runs that there are."""

import asyncio
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import Run

from runs_client.commands.options import (
    JsonOption,
    PlaybookId,
    ProjectOption,
    RunArgument,
    RunStatus,
    RunType,
    without_controls,
)
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.printing import console, say, say_json, say_table
from runs_client.render import run_details, run_table


@with_service_options
def get(*, services: ServiceOptions, run_id: RunArgument, project: ProjectOption, as_json: JsonOption = False) -> None:
    """Show one run: where it stands, what came of it, and the ids that a next run needs.

    Example: playbook-runs get 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1
    """

    async def run() -> Run:
        async with services.runs(project) as client:
            return await client.get(project, run_id)

    found = asyncio.run(run())
    if as_json:
        say_json(found)
    else:
        console().print(run_details(found))


@with_service_options
def list_(
    *,
    services: ServiceOptions,
    project: ProjectOption,
    playbook: Annotated[PlaybookId | None, typer.Option(help="Only runs of this playbook.")] = None,
    run_type: Annotated[RunType | None, typer.Option("--type", help="Only runs of this type.")] = None,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs in this state.")] = None,
    scope_id: Annotated[
        str, typer.Option(metavar="ID", help="Only runs of this scope.", callback=without_controls)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most this many.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show a project's runs, newest first; of those that did not succeed, why.

    Example: playbook-runs list --project shop-1 --status FAILED --json
    """

    async def run() -> list[Run]:
        found: list[Run] = []
        async with services.runs(project) as client:
            runs = client.list(
                project,
                playbook_id=playbook or "",
                run_type=Run.Type.Value(run_type) if run_type else Run.TYPE_UNSPECIFIED,
                scope_id=scope_id,
                status=Run.Status.Value(status) if status else Run.STATUS_UNSPECIFIED,
                page_size=min(limit, 100),
            )
            async for one in runs:
                found.append(one)
                if len(found) == limit:
                    break
        return found

    found = asyncio.run(run())
    if as_json:
        for one in found:
            say_json(one)
    elif found:
        say_table(run_table(found))
    else:
        say("no runs")
