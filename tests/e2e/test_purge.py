"""PUR-001: all of a project goes, from both services, by command and over HTTP; watchers and late calls fail."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import grpc
import psycopg
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import Run

from tests.support.cli import NewCli
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import Shop, refusal

TABLES = {
    "runs.runs": "project_id",
    "runs.run_events": "project_id",
    "runs.calls": "project_id",
    "runs.usage_increments": "project_id",
    "runs.usage_daily": "project_id",
    "executor.executions": "project_id",
    "executor.drafts": "project_id",
    "executor.suggestions": "project_id",
    "executor.products": "project_id",
    "executor.ai_usage": "project_id",
    "executor.projects": "id",
}


def left(shop: Shop) -> dict[str, int]:
    """Return what tables still have of a shop, and how many rows."""
    found = {}
    with psycopg.connect(shop.stack.postgres.url(database="playbook_runs")) as database:
        for table, column in TABLES.items():
            row = database.execute(f"SELECT count(*) FROM {table} WHERE {column} = %s", [shop.project]).fetchone()  # type: ignore[arg-type]
            if row and row[0]:
                found[table] = int(row[0])
    return found


async def worked_on(shop: Shop) -> Run:
    await shop.stock(3)
    preview = await shop.preview(sample=2)
    await shop.draft_run(preview)
    applied = await shop.apply(preview)
    assert left(shop)["executor.ai_usage"] == 1
    return applied


async def test_PUR_001_the_command_asks_deletes_all_and_says_what(
    shop: Shop, new_shop: Callable[[], Shop], new_cli: NewCli, tmp_path: Path
) -> None:
    other = new_shop()
    await other.open()
    await other.stock(1)
    await worked_on(shop)
    cli = new_cli(tmp_path, "--data-dir", str(shop.stack.data_dir.path))
    refused = cli("purge", "--project", shop.project)
    assert refused.returncode == 1
    assert "say --yes" in refused.stderr
    code, written = cli.at_a_terminal("purge", "--project", shop.project, typed="n\n")
    assert code == 1
    assert f"Delete all of project {shop.project} in both services, for good? [y/N]" in written
    assert "nothing was deleted" in written
    assert left(shop)["runs.runs"] == 3
    said = cli.ok("purge", "--project", shop.project, "--yes")
    counts = "runs 3, changes N, executions 3, drafts 1, suggestions 3, products 3, projects 1, usage days 3"
    assert re.sub(r"changes \d+", "changes N", said) == f"project {shop.project}: deleted {counts}\n"
    assert left(shop) == {}
    (again,) = cli.json("purge", "--project", shop.project, "--yes")
    assert again.pop("complete") is True
    assert set(again.values()) == {"0"}
    assert len(left(other)) == 2


async def test_PUR_001_an_owner_over_http_keeps_the_plan(shop: Shop) -> None:
    await worked_on(shop)
    async with shop.http() as client:
        answer = await client.delete(str(client.base_url).rstrip("/"))
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"changes": 0} == {
        "complete": True,
        "runs": 3,
        "changes": 0,
        "executions": 3,
        "drafts": 1,
        "suggestions": 3,
        "products": 3,
        "projects": 0,
        "usageDays": 3,
    }
    assert left(shop) == {"executor.ai_usage": 1, "executor.projects": 1}
    project = await shop.catalog.GetProject(catalog.GetProjectRequest(project_id=shop.project), **shop.auth())
    assert (project.project.plan, project.project.ai_usage.used) == (catalog.Project.BUSINESS, 3)


async def end_of(watching: "asyncio.Task[list[pb.WatchRunResponse]]") -> str:
    try:
        return Run.Status.Name((await watching)[-1].run.status)
    except grpc.aio.AioRpcError as error:
        return refusal(error).reason


async def test_PUR_001_watchers_of_a_run_that_is_cancelled_see_its_end_and_others_not_found(
    shop: Shop, openai: OpenAIServer
) -> None:
    applied = await worked_on(shop)
    await shop.stock(2, prefix="new")
    openai.behave(Behaviour(delay_seconds=30, product_ids=[shop.product_id(1, "new")]))
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    watching = [asyncio.create_task(shop.watch(run.id, replica=replica)) for replica in (0, 1)]
    await openai.wait_for(lambda stats: stats.in_flight > 0)
    request = pb.PurgeProjectRequest(project_id=shop.project)
    purged = await shop.runs().PurgeProject(request, **shop.auth(project="*"))
    assert (purged.runs, purged.complete, left(shop)) == (4, True, {})
    # A replica that reads the run's end too late finds no run.
    assert {await end_of(watcher) for watcher in watching} <= {"CANCELLED", "RUN_NOT_FOUND"}
    for call in (shop.get(applied.id), shop.watch(applied.id), shop.retry(applied.id), shop.cancel(run.id)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert (refusal(caught.value).code, refusal(caught.value).reason) == (
            grpc.StatusCode.NOT_FOUND,
            "RUN_NOT_FOUND",
        )
