"""`playbook-runs draft`: the suggestions that an apply would write."""

import asyncio
from typing import Annotated

import typer
from playbooks.executor.v1.catalog_service_pb2 import Product
from playbooks.runs.v1.run_pb2 import Draft

from runs_client.commands import next_step
from runs_client.commands.options import JsonOption, PlaybookId, ProjectOption, named_or_left_out
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.failures import CommandError
from runs_client.printing import console, say, say_json
from runs_client.render import before_and_after, draft_heading
from runs_client.suggestions import products_of


@with_service_options
def draft(
    *,
    services: ServiceOptions,
    draft_id: Annotated[
        str | None,
        typer.Argument(
            metavar="DRAFT", help="A draft's id, as `get` shows it. Left out: the newest.", callback=named_or_left_out
        ),
    ] = None,
    project: ProjectOption,
    playbook: Annotated[PlaybookId | None, typer.Option(help="Whose newest draft.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show at most this many suggestions.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Show a draft: its suggestions beside what the products have now, and what to do with it next.

    With --json the whole draft, as one object.

    Example: playbook-runs draft --project shop-1 --playbook missing_seo_title
    """
    if (draft_id is None) == (playbook is None):
        raise CommandError("say which draft: its id, or --playbook for the newest of a playbook")

    async def read() -> tuple[Draft, dict[str, Product]]:
        async with services.executor(project) as executor:
            found = await (
                executor.get_latest_draft(project, playbook)
                if playbook
                else executor.get_draft(project, draft_id or "")
            )
            return found, {} if as_json else await products_of(executor, found, limit=limit)

    found, products = asyncio.run(read())
    if as_json:
        say_json(found)
        return
    out = console()
    out.print(draft_heading(found))
    if found.items:
        out.print(before_and_after(found, products, limit=limit))
    if len(found.items) > limit:
        say(f"{limit} of {len(found.items)} suggestions; see all with --limit {len(found.items)}")
    for line in next_step.after_draft(found, services):
        say(line)
