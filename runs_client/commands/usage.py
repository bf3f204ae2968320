"""`playbook-runs usage`: what a project's runs were and cost."""

import asyncio
from datetime import date, datetime
from typing import Annotated

import typer
from playbooks.runs.v1.runs_service_pb2 import GetUsageResponse

from runs_client.commands.options import JsonOption, ProjectOption
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.printing import console, say, say_json, say_table
from runs_client.render import usage_details, usage_table

_FORMATS = ["%Y-%m-%d"]


@with_service_options
def usage(
    *,
    services: ServiceOptions,
    project: ProjectOption,
    first: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=_FORMATS, metavar="DAY", help="The first UTC day. [default: 29 days before the last]"
        ),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=_FORMATS, metavar="DAY", help="The last UTC day. [default: today]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a project's runs were, and what they asked of the AI provider: by day and type, and summed up.

    A run counts on the day on which it ended.

    Example: playbook-runs usage --project shop-1 --from 2026-11-01 --to 2026-11-30
    """

    def day(moment: datetime | None) -> date | None:
        return moment.date() if moment else None

    async def read() -> GetUsageResponse:
        async with services.runs(project) as client:
            return await client.get_usage(project, first_day=day(first), last_day=day(last))

    found = asyncio.run(read())
    if as_json:
        say_json(found)
        return
    if not found.days:
        say(f"no runs ended from {getattr(found, 'from')} to {found.to}")
        return
    say_table(usage_table(found))
    console().print(usage_details(found))
