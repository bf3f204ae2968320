"""`playbook-runs import` and `playbook-runs export`: Shopify product exports in and out of a project's catalog."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import typer
from playbooks.executor.v1.catalog_service_pb2 import Product, Project, PutProductsResponse

from runs_client.catalog_limits import fit
from runs_client.catalog_mapping import fill_in, from_product, missing_columns, to_product, unused_name
from runs_client.commands.options import INT64_MAX, JsonOption, Plan, ProjectOption
from runs_client.commands.services import with_service_options
from runs_client.endpoints import ServiceOptions
from runs_client.errors import ServiceCallError
from runs_client.executor import ExecutorClient
from runs_client.failures import CommandError, explain
from runs_client.printing import say, say_json, warn
from runs_client.shopify import Catalog
from servicekit.blanks import is_blank


@with_service_options
def import_(
    *,
    services: ServiceOptions,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="A Shopify product export.")],
    project: ProjectOption,
    plan: Annotated[
        Plan | None,
        typer.Option(help="Set the project's plan, as the platform. [default: a new project gets DEFAULT_PLAN]"),
    ] = None,
    ai_daily_limit: Annotated[
        int | None,
        typer.Option(min=0, max=INT64_MAX, metavar="N", help="Set its AI suggestions a day, as the platform."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put the products of a Shopify product export into a project; make the project if it is new.

    Products are known by their handle: importing a file again brings them up to date. The whole file is checked before
    anything is stored; texts that are too long are cut, and a warning names their products. The plan and the AI
    suggestions a day are the platform's to set: with a token for project '*' and the role OWNER, which a local stack
    gives by itself. A plan without a number of suggestions means the plan's own.

    Example: playbook-runs import products_export.csv --project shop-1
    """
    catalog = Catalog.read(file)
    if missing := missing_columns(catalog):
        warn(f"{file}: {missing}")
    products, cuts = fit(catalog.products)
    for cut in cuts:
        warn(f"{file}: {cut}. To export, name this file with --catalog: so the shop keeps the whole text")
    as_owner_of = project if plan is None and ai_daily_limit is None else "*"

    async def run() -> PutProductsResponse:
        async with services.executor(as_owner_of) as executor:
            chosen = Project.Plan.Value(plan) if plan else Project.PLAN_UNSPECIFIED
            await executor.put_project(project, chosen, ai_daily_limit=ai_daily_limit)
            return await _put(executor, project, [to_product(product) for product in products])

    stored = asyncio.run(run())
    if as_json:
        document = {"project_id": project, "created": stored.created, "updated": stored.updated}
        say_json(document)
        return
    without_title = sum(is_blank(product.seo_title) for product in products)
    without_description = sum(is_blank(product.seo_description) for product in products)
    say(
        f"{stored.created + stored.updated} products in {project}: {stored.created} new, {stored.updated} brought up "
        f"to date; {without_title} without SEO title, {without_description} without SEO description"
    )


async def _put(executor: ExecutorClient, project: str, products: list[Product]) -> PutProductsResponse:
    """Put products into a project; when a call fails, say how many of them the project has."""
    total = PutProductsResponse()
    try:
        async for stored in executor.put_batches(project, products):
            total.created += stored.created
            total.updated += stored.updated
    except ServiceCallError as error:
        raise CommandError(
            f"{explain(error)}; {total.created + total.updated} of {len(products)} products are stored in {project}, "
            f"{total.created} of them new: import the file again, which brings them up to date and adds the others"
        ) from error
    return total


@with_service_options
def export(
    *,
    services: ServiceOptions,
    project: ProjectOption,
    catalog: Annotated[
        Path | None,
        typer.Option(metavar="ORIGINAL.csv", help="The file that was imported: keeps all its columns and rows."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT.csv", help="The file to write. [default: a new one, named for you]"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.csv if it is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a project's products to a CSV file that a Shopify shop can import.

    With the original file, SEO titles and descriptions are filled into it and all else stays as it is. Without, the
    file has the columns Handle, Title, Body (HTML), SEO Title and SEO Description.

    Example: playbook-runs export --project shop-1 --catalog products_export.csv -o improved.csv
    """
    original = Catalog.read(catalog) if catalog else None
    name = f"improved-{catalog.stem}" if catalog else f"catalog-{re.sub(r'[^A-Za-z0-9._-]+', '-', project)}"
    destination = output or unused_name(Path(), name)
    if output and output.exists() and not force:
        raise CommandError(f"{output}: is there already: name another file, or overwrite it with --force")

    async def products() -> list[Product]:
        async with services.executor(project) as executor:
            return [product async for product in executor.list_products(project)]

    found = asyncio.run(products())
    improved, filled = fill_in(original, found) if original else (Catalog.of(map(from_product, found)), len(found))
    improved.write(destination, overwrite=force)
    if as_json:
        say_json({"file": str(destination), "products": len(improved.products), "changed": filled})
    elif original:
        say(f"{destination}: {filled} of {len(improved.products)} products have new SEO texts")
    else:
        say(f"{destination}: {filled} products")
