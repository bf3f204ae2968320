"""`playbook-runs import` and `playbook-runs export`: Shopify product exports in and out of a project's catalog."""

import asyncio
import re
from pathlib import Path
from typing import Annotated

import grpc
import typer
from playbooks.executor.v1.catalog_service_pb2 import Product, Project, PutProductsResponse

from runs_client.access import find_access
from runs_client.commands.options import (
    INT64_MAX,
    CaFileOption,
    CertFileOption,
    DataDirOption,
    ExecutorTargetOption,
    JsonOption,
    KeyFileOption,
    Plan,
    ProjectOption,
    TokenOption,
)
from runs_client.errors import ServiceCallError
from runs_client.executor import ExecutorClient
from runs_client.failures import CommandError
from runs_client.printing import say, say_json
from runs_client.shopify import Catalog
from runs_client.transfer import fill_in, from_product, to_product, unused_name


def import_(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE.csv", help="A Shopify product export.")],
    project: ProjectOption,
    plan: Annotated[
        Plan | None,
        typer.Option(help="Set the project's plan. [default: a new project gets PRO]"),
    ] = None,
    ai_daily_limit: Annotated[
        int | None,
        typer.Option(min=0, max=INT64_MAX, metavar="N", help="Set its AI suggestions a day. [default: the plan's]"),
    ] = None,
    as_json: JsonOption = False,
    executor_target: ExecutorTargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Put the products of a Shopify product export into a project; make the project if it is new.

    Products are known by their handle: importing a file again brings them up to date.

    Example: playbook-runs import products_export.csv --project shop-1 --plan BUSINESS
    """
    catalog = Catalog.read(file)
    access = find_access(
        "executor",
        project,
        target=executor_target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )

    async def run() -> PutProductsResponse:
        async with access.executor() as executor:
            await _ensure_project(executor, project, plan, ai_daily_limit)
            return await executor.put_products(project, [to_product(product) for product in catalog.products])

    stored = asyncio.run(run())
    if as_json:
        document = {"project_id": project, "created": stored.created, "updated": stored.updated}
        say_json(document)
        return
    without_title = sum(not product.seo_title.strip() for product in catalog.products)
    without_description = sum(not product.seo_description.strip() for product in catalog.products)
    say(
        f"{stored.created + stored.updated} products in {project}: {stored.created} new, {stored.updated} brought up "
        f"to date; {without_title} without SEO title, {without_description} without SEO description"
    )


def export(
    *,
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
    executor_target: ExecutorTargetOption = None,
    token: TokenOption = None,
    data_dir: DataDirOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    key_file: KeyFileOption = None,
) -> None:
    """Write a project's products to a CSV file that a Shopify shop can import.

    With the original file, SEO titles and descriptions are filled into it and all else stays as it is. Without, the
    file has the columns Handle, Title, Body (HTML), SEO Title and SEO Description.

    Example: playbook-runs export --project shop-1 --catalog products_export.csv -o improved.csv
    """
    original = Catalog.read(catalog) if catalog else None
    access = find_access(
        "executor",
        project,
        target=executor_target,
        token=token,
        data_dir=data_dir,
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )
    name = f"improved-{catalog.stem}" if catalog else f"catalog-{re.sub(r'[^A-Za-z0-9._-]+', '-', project)}"
    destination = output or unused_name(Path(), name)
    if output and output.exists() and not force:
        raise CommandError(f"{output}: is there already: name another file, or overwrite it with --force")

    async def products() -> list[Product]:
        async with access.executor() as executor:
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


async def _ensure_project(
    executor: ExecutorClient, project: str, plan: Plan | None, ai_daily_limit: int | None
) -> None:
    """Make the project if there is none; set what is given, and leave an existing project's plan otherwise."""
    try:
        existing = await executor.get_project(project)
    except ServiceCallError as error:
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise
        existing = None
    if existing and plan is None and ai_daily_limit is None:
        return
    chosen = Project.Plan.Value(plan) if plan else existing.plan if existing else Project.PRO
    await executor.put_project(project, chosen, ai_daily_limit=ai_daily_limit)
