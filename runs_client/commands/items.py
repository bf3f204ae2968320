"""`playbook-runs items`: what an apply did, product by product."""

import asyncio
from collections import Counter
from typing import Annotated

import typer
from playbooks.runs.v1.run_pb2 import RunItem

from runs_client.commands.options import JsonOption, ProjectOption, RunArgument
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.printing import say, say_json, say_table
from runs_client.render import item_table


@with_service_options
def items(
    *,
    services: ServiceOptions,
    run_id: RunArgument,
    project: ProjectOption,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Show at most this many. [default: all]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an apply did, product by product: which were updated, and why others were not.

    Example: playbook-runs items 0199d5c2-7c55-7bd4-b9c1-5f1c4a1f6f0e --project shop-1
    """

    async def read() -> list[RunItem]:
        found: list[RunItem] = []
        async with services.executor(project) as executor:
            async for item in executor.list_run_items(project, run_id):
                found.append(item)
                if len(found) == limit:
                    break
        return found

    found = asyncio.run(read())
    if as_json:
        for item in found:
            say_json(item)
    elif found:
        say_table(item_table(found))
        counts = Counter(RunItem.Status.Name(item.status) for item in found)
        among = f" among the first {limit}" if len(found) == limit else ""
        say(", ".join(f"{count} {status}" for status, count in counts.most_common()) + among)
    else:
        say("no items: only an apply that has ended, of a scope with products, has them")
