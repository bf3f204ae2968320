"""The main job, start to end: import a catalog, preview, draft, apply, export the improved one."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from playbooks.executor.v1.catalog_service_pb2 import Product
from playbooks.runs.v1.run_pb2 import Run
from rich.console import Console

from runs_client.catalog_limits import fit
from runs_client.catalog_mapping import fill_in, missing_columns, to_product, unused_name
from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_client.executor import ExecutorClient
from runs_client.failures import CommandError
from runs_client.printing import console, say, warn
from runs_client.render import NOUNS, VERBS, before_and_after, outcome, status_name, written_by
from runs_client.shopify import Catalog, CatalogProduct
from runs_client.suggestions import products_of
from runs_client.views import follow, view_for

if TYPE_CHECKING:
    from devstack.stack import Stack

EXAMPLE = Path(__file__).parent.parent / "examples" / "shop-catalog.csv"
PROJECT = "demo-shop"


def run_demo(catalog_file: Path, data_dir: Path | None) -> None:
    """Improve a catalog on a stack of its own, and write the result into the working directory as a new file.

    The stack's data stays in `data_dir`, which must have none yet; None: in the default folder, made anew. Raises
    CatalogFileError for a file that is no catalog, CommandError when anything else goes wrong.
    """
    started = time.monotonic()
    catalog = Catalog.read(catalog_file)
    if not os.access(Path(), os.W_OK):
        raise CommandError(f"{Path().absolute()} cannot be written to: run the demo in another folder")
    out = console()
    if missing := missing_columns(catalog):
        warn(f"{catalog_file.name}: {missing}")
    products, cuts = fit(catalog.products)
    for cut in cuts:
        warn(f"{catalog_file.name}: {cut}")
    say(f"{catalog_file.name}: {len(catalog.products)} products in {len(catalog.rows) - 1} rows")
    with _stack(data_dir) as stack:
        data_dir = stack.data_dir.path
        say(f"PostgreSQL, Valkey and both services are up after {time.monotonic() - started:.1f} s")
        improvement = asyncio.run(_improve(products, stack, out))
    improved, changed = fill_in(catalog, improvement.products)
    destination = unused_name(Path(), f"improved-{catalog_file.stem}")
    improved.write(destination)

    out.rule()
    say(f"{changed} of {len(catalog.products)} products improved in {time.monotonic() - started:.1f} s:")
    for playbook, count in improvement.written.items():
        say(f"  {count} {NOUNS[playbook]}s written")
    if improvement.models:
        say(f"  {written_by(improvement.models)}")
    say(f"{destination} is ready to be imported into the shop")
    say(f"in a browser: {shlex.join([_program(), 'up', '--data-dir', str(data_dir), '--project', PROJECT])}")


class Improvement:
    """What a demo does to its project, playbook by playbook."""

    def __init__(self, runs: RunsClient, executor: ExecutorClient, out: Console) -> None:
        self.written: Counter[str] = Counter()  # by playbook
        self.models: set[str] = set()
        self.products: list[Product] = []  # as they are in the end
        self._runs = runs
        self._executor = executor
        self._out = out

    async def prepare(self, products: list[CatalogProduct]) -> None:
        """Make the project and import the catalog."""
        await self._executor.put_project(PROJECT)
        await self._executor.put_products(PROJECT, [to_product(product) for product in products])

    async def fill_in(self, playbook: str) -> None:
        """Preview, draft and apply one playbook."""
        self._out.rule(f"{NOUNS[playbook]}s")
        estimate = await self._executor.estimate(PROJECT, playbook)
        say(f"{estimate.total_affected} products have no {NOUNS[playbook]}")
        if not estimate.total_affected:
            return

        preview = await self._run(playbook, Run.PREVIEW_GENERATE)
        draft = await self._executor.get_draft(PROJECT, preview.draft_id)
        self._out.print(before_and_after(draft, await products_of(self._executor, draft)))

        await self._run(playbook, Run.DRAFT_GENERATE, preview.scope_id, preview.rules_hash)
        applied = await self._run(playbook, Run.APPLY, preview.scope_id, preview.rules_hash)
        self.models.add(draft.model)
        self.written[playbook] += applied.result.updated

    async def collect(self) -> None:
        """Read the products back."""
        self.products = [product async for product in self._executor.list_products(PROJECT)]

    async def _run(self, playbook: str, run_type: Run.Type.ValueType, scope_id: str = "", rules_hash: str = "") -> Run:
        """Create a run and watch it to its end; raise CommandError unless it succeeds."""
        created = await self._runs.create(PROJECT, playbook, run_type, scope_id=scope_id, rules_hash=rules_hash)
        with view_for(self._out) as view:
            run = await follow(self._runs.watch(PROJECT, created.run.id), view, created.run)
        if run.status != Run.SUCCEEDED:
            raise CommandError(f"the {VERBS[run_type]} of {playbook} ended {status_name(run)}: {outcome(run)}")
        return run


async def _improve(products: list[CatalogProduct], stack: "Stack", out: Console) -> Improvement:
    token = stack.token(PROJECT, "OWNER")
    try:
        async with (
            RunsClient(stack.runs_target, token=token) as runs,
            ExecutorClient(stack.executor_target, token=token) as executor,
        ):
            improvement = Improvement(runs, executor, out)
            await improvement.prepare(products)
            for playbook in NOUNS:
                await improvement.fill_in(playbook)
            await improvement.collect()
            return improvement
    except ServiceCallError as error:
        raise CommandError(f"the demo's own stack failed: {error.message}") from error


def _program() -> str:
    """Return what calls this program."""
    return "playbook-runs" if shutil.which("playbook-runs") else sys.argv[0]


@contextmanager
def _stack(data_dir: Path | None) -> Iterator["Stack"]:
    """Enter a new stack in a folder; a termination signal leaves it in order."""
    from devstack.datadir import DataDir, default_demo_dir
    from devstack.errors import StackError
    from devstack.stack import Stack, StackOptions

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = DataDir(data_dir or default_demo_dir())
    try:
        if data_dir is None:
            folder.delete()
        elif folder.has_stack():
            raise CommandError(f"{folder.path} has a stack already: the demo needs a folder of its own")
        options = StackOptions(data_dir=folder.path, durable=False, executor_env={"DEFAULT_PLAN": "BUSINESS"})
        with Stack(options) as stack:
            yield stack
    except StackError as error:
        raise CommandError(str(error)) from error
