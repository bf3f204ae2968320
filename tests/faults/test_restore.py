"""Scenario 17: dumps taken under load, restored into a new server, as docs/operations.md says it. Every run ends, what
the services disagree about is mended, and nothing is applied twice, also by clients that repeat their requests."""

import asyncio
import itertools
import re
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from devstack.datadir import DataDir
from devstack.ports import free_ports
from devstack.postgres import Postgres, binary
from devstack.provision import DATABASE
from devstack.stack import Stack, StackOptions
from tests.faults.sizes import size
from tests.support.audit import PROMISES
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, Channels, Shop, refusal
from tests.support.waiting import eventually

SHOPS = size(12, 4)
RUNS = size(300, 40)  # that are acknowledged before each dump
PRODUCTS = 3  # in each round of a shop
SLOW = 5.0  # seconds of the AI request that is under way while runs_service is dumped; a dump takes one
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

AHEAD = "SELECT count(*) FROM executor.executions WHERE run_id NOT IN (SELECT id FROM runs.runs)"
ACTIVE = "SELECT count(*) FROM runs.runs WHERE status IN ('QUEUED', 'RUNNING')"
WRONG = {
    **{name: query for name, query in PROMISES.items() if name != "runs the services disagree about"},
    "runs of runs_service that the executor tells otherwise": """
        SELECT count(*) FROM runs.runs r LEFT JOIN executor.executions e ON e.run_id = r.id
        WHERE e.run_id IS NULL OR e.status <> r.status""",
    "changes with numbers that this server has not given out": """
        SELECT count(*) FROM runs.run_events WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())""",
    "applies that succeeded and whose items are not in the catalog": """
        SELECT count(*) FROM runs.runs r JOIN executor.run_items i ON i.run_id = r.id
        LEFT JOIN executor.products p ON p.project_id = r.project_id AND p.id = i.product_id
        WHERE r.status = 'SUCCEEDED' AND i.status = 'UPDATED' AND coalesce(p.seo_title, '') = ''""",
}


@dataclass
class Busy:
    """A shop that makes round after round of preview, draft and apply, and keeps what it asked for."""

    shop: Shop
    asked: list[pb.CreateRunRequest] = field(default_factory=list)  # of acknowledged runs

    async def work(self) -> None:
        for number in itertools.count():
            await self.shop.stock(PRODUCTS, prefix=f"{number}-")
            preview = await self._run(Run.PREVIEW_GENERATE, number)
            keys = {"scope_id": preview.scope_id, "rules_hash": preview.rules_hash}
            await self._run(Run.DRAFT_GENERATE, number, **keys)
            await self._run(Run.APPLY, number, **keys)

    async def _run(self, run_type: Run.Type.ValueType, number: int, **fields: str) -> Run:
        request = pb.CreateRunRequest(
            project_id=self.shop.project,
            playbook_id=TITLES,
            run_type=run_type,
            idempotency_key=f"{number} {run_type}",
            **fields,
        )
        run = (await self.shop.runs().CreateRun(request, **self.shop.auth())).run
        self.asked.append(request)
        return await self.shop.ended(run)


async def test_a_restored_dump_of_a_busy_stack_ends_every_run_and_applies_nothing_twice(
    stack_folder: Callable[[], Path], stack_env: dict[str, str], openai: OpenAIServer, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"durable": False, "env": stack_env | {"RUNS_RECONCILE_SECONDS": "1"}}
    with Stack(StackOptions(data_dir=stack_folder(), **options)) as stack:
        async with shops_on(stack) as busy:
            position = await newest_position(busy[0].shop)
            async with working(busy):
                await reach(busy, RUNS)
                await at_work(busy[0].shop, openai)
                await dump(stack, "runs", tmp_path)
                await reach(busy, 2 * RUNS)
                await dump(stack, "executor", tmp_path)
                await reach(busy, 2 * RUNS + SHOPS)  # what comes after both dumps is lost
            asked = [(each.shop.project, each.asked) for each in busy]

    folder = stack_folder()
    active, ahead = await restore(folder, tmp_path)
    assert active > 0, "no run was at work when runs_service was dumped: the test shows nothing"
    assert ahead > 0, "the executor was not ahead: the test shows nothing"

    with Stack(StackOptions(data_dir=folder, **options)) as stack:
        await eventually(lambda: broken(stack) == {}, timeout=60)
        channels = Channels.to(stack)
        shops = [(Shop(stack, channels, project), requests) for project, requests in asked]
        await watched_as_before(shops[0][0], position)
        # Clients repeat what they were promised, and what was lost is made anew.
        for shop, requests in shops:
            for request in requests:
                run = (await shop.runs().CreateRun(request, **shop.auth())).run
                assert (await shop.ended(run)).status in (Run.SUCCEEDED, Run.STALE)
        await channels.close()
        await eventually(lambda: broken(stack) == {}, timeout=60)
        print(f"\n{active} runs were at work in the dump, {ahead} were known to the executor only")


@asynccontextmanager
async def shops_on(stack: Stack) -> AsyncIterator[list[Busy]]:
    channels = Channels.to(stack)
    shops = [Shop(stack, channels) for _ in range(SHOPS)]
    for shop in shops:
        await shop.open()
    yield [Busy(shop) for shop in shops]
    await channels.close()


@asynccontextmanager
async def working(busy: list[Busy]) -> AsyncIterator[None]:
    """Let all shops work, within the block."""
    tasks = [asyncio.create_task(each.work()) for each in busy]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        failures = [one for one in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(one, Exception)]
    assert failures == []


async def at_work(shop: Shop, openai: OpenAIServer) -> None:
    """Return while a run is at work for some seconds more."""
    slow = Shop(shop.stack, shop.channels)
    await slow.open()
    openai.behave(Behaviour(delay_seconds=SLOW, product_ids=await slow.stock(1)))
    await slow.create(Run.PREVIEW_GENERATE)
    await openai.wait_for(lambda stats: stats.in_flight > 0)


async def reach(busy: list[Busy], count: int) -> None:
    await eventually(lambda: sum(len(each.asked) for each in busy) >= count, timeout=120)


async def dump(stack: Stack, schema: str, folder: Path) -> None:
    """Dump a schema while the stack works."""
    url = stack.postgres.url(database=DATABASE)
    await tool("pg_dump", "--format=custom", f"--schema={schema}", f"--file={folder / schema}.dump", url)


async def restore(folder: Path, dumps: Path) -> tuple[int, int]:
    """Restore both dumps into the new server in `folder`.

    Returns how many runs are active, and how many only the executor knows.
    """
    data = DataDir(folder)
    server = Postgres(
        data.postgres,
        port=free_ports(1)[0],
        password=data.secrets().postgres_password,
        log=dumps / "postgres.log",
        durable=False,
    )
    with server:
        url = server.url(database=DATABASE)
        with psycopg.connect(url, autocommit=True) as connection:
            for schema in ("runs", "executor"):
                connection.execute(f"DROP SCHEMA {schema} CASCADE")  # type: ignore[arg-type]
                await tool("pg_restore", "--exit-on-error", f"--dbname={url}", str(dumps / f"{schema}.dump"))
            for statement in statements_of("Backup and restore"):
                connection.execute(statement)  # type: ignore[arg-type]
            return value(connection, ACTIVE), value(connection, AHEAD)


def statements_of(section: str) -> list[str]:
    """Return the SQL statements of a section of the manual."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", OPERATIONS.read_text(), flags=re.M | re.S)
    statements = [
        part.strip() for block in re.findall(r"```sql\n(.*?)```", text, flags=re.S) for part in block.split(";")
    ]
    assert any(statements)
    return [statement for statement in statements if statement]


async def tool(name: str, *arguments: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run, [binary(name), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def value(connection: "psycopg.Connection[Any]", query: str) -> int:
    row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return int(row[0])


def broken(stack: Stack) -> dict[str, int]:
    """Return what is wrong now, by name."""
    with psycopg.connect(stack.postgres.url(database=DATABASE)) as database:
        return {name: count for name, query in WRONG.items() if (count := value(database, query))}


async def newest_position(shop: Shop) -> str:
    """Return a position of a watcher of the shop."""
    call = shop.runs().WatchRuns(pb.WatchRunsRequest(project_id=shop.project), **shop.auth())
    try:
        return (await call.read()).position
    finally:
        call.cancel()


async def watched_as_before(shop: Shop, position: str) -> None:
    """A position of the old server is refused or goes on; a new watcher gets the list, and then what changes."""
    auth = shop.auth()
    old = shop.runs().WatchRuns(pb.WatchRunsRequest(project_id=shop.project, after=position), **auth)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await old.read()
    assert refusal(caught.value).reason == "POSITION_EXPIRED"
    call = shop.runs().WatchRuns(pb.WatchRunsRequest(project_id=shop.project), **auth)
    try:
        while (await call.read()).kind != pb.WatchRunsResponse.BOOKMARK:
            pass
        run = (await shop.create(Run.PREVIEW_GENERATE, "missing_seo_description")).run
        assert (await call.read()).run.id == run.id
        await shop.ended(run)
    finally:
        call.cancel()
