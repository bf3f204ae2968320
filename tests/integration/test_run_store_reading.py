"""RunStore over a real PostgreSQL: pages, filters and positions."""

import itertools
import random
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from buf.validate import validate_pb2
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest

from runs_service.predicates import PLAYBOOKS, RUN_TYPES, STATUSES
from runs_service.queries import RunQueries
from runs_service.store import Filters, RunStore
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.run_stores import apply, created, store
from tests.support.runs import NOW, TERMINAL, event, new_run

__all__ = ["store"]  # fixtures


async def test_a_run_of_another_project_is_not_there(store: RunStore) -> None:
    run = await created(store)
    assert await store.runs.get("q", run.id) is None


@pytest.fixture
def queries(store: RunStore) -> RunQueries:
    return RunQueries(store)


async def pages(
    queries: RunQueries, filters: Filters, limit: int, between: Callable[[], Any] | None = None
) -> list[Run]:
    listed: list[Run] = []
    token = ""
    while True:
        page, token = await queries.page(filters, limit=limit, offset=0, page_token=token)
        listed += page
        if not token:
            return listed
        if between:
            await between()


async def test_pages_skip_and_repeat_nothing_while_runs_are_inserted(store: RunStore, queries: RunQueries) -> None:
    # Many of the same microsecond: the id decides among them.
    stored = await store.runs.create(
        [new_run(NOW + timedelta(microseconds=n // 10), scope_id=f"s{n}") for n in range(60)]
    )
    numbers = iter(range(1000))

    async def insert() -> None:
        await store.runs.create([new_run(NOW + timedelta(days=1), idempotency_key=f"new{next(numbers)}")])

    listed = await pages(queries, Filters("p"), 7, between=insert)
    expected = sorted((one.run for one in stored), key=lambda run: (run.created_at.ToNanoseconds(), UUID(run.id)))
    assert [run.id for run in listed] == [run.id for run in reversed(expected)]


async def test_filters_hold_on_every_page(store: RunStore, queries: RunQueries) -> None:
    stored = await store.runs.create([new_run(scope_id=f"s{n % 2}", idempotency_key=str(n)) for n in range(20)])
    for one in stored[:10]:
        await apply(store, event(one.run.id, 1, Run.FAILED))
    both = Filters("p", "missing_seo_title", "PREVIEW_GENERATE", "s0", "FAILED")
    assert {run.id for run in await pages(queries, both, 2)} == {one.run.id for one in stored[:10:2]}
    assert await pages(queries, Filters("p", status="SUCCEEDED"), 2) == []
    assert await pages(queries, Filters("q"), 2) == []


async def test_every_combination_of_filters_finds_what_it_says(store: RunStore, queries: RunQueries) -> None:
    kinds = list(itertools.product(PLAYBOOKS, Run.Type.values()[1:], ("a", "b"), range(6)))
    random.Random(8).shuffle(kinds)
    stored = []
    for number, (playbook, run_type, scope, end) in enumerate(kinds):
        run = await created(
            store,
            now=NOW + timedelta(seconds=number // 3),  # some in the same moment
            playbook_id=playbook,
            run_type=run_type,
            scope_id=scope,
            idempotency_key=str(number),
        )
        await apply(
            store, *[event(run.id, n + 1, status) for n, status in enumerate((Run.RUNNING, *TERMINAL)[:end])][-1:]
        )
        stored.append(await store.runs.get("p", run.id))
    newest_first = sorted(
        (run for run in stored if run), key=lambda run: (run.created_at.ToNanoseconds(), UUID(run.id)), reverse=True
    )
    for playbook, type_name, scope, status in itertools.product(
        ("", *PLAYBOOKS), ("", *RUN_TYPES), ("", "a"), ("", *STATUSES)
    ):
        listed = await pages(queries, Filters("p", playbook, type_name, scope, status), 5)
        expected = [
            run.id
            for run in newest_first
            if playbook in ("", run.playbook_id)
            and type_name in ("", Run.Type.Name(run.run_type))
            and scope in ("", run.scope_id)
            and status in ("", Run.Status.Name(run.status))
        ]
        assert [run.id for run in listed] == expected, (playbook, type_name, scope, status)


async def test_the_database_takes_the_statuses_of_the_contract(runs_database: Database) -> None:
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'runs_status'"
    ((constraint,),) = await rows(runs_database, definition)
    assert set(re.findall("'([A-Z_]+)'", constraint)) == set(STATUSES)


def test_the_playbooks_are_those_of_the_contract() -> None:
    field = ListRunsRequest.DESCRIPTOR.fields_by_name["playbook_id"]
    assert set(field.GetOptions().Extensions[validate_pb2.field].string.__getattribute__("in")) == {"", *PLAYBOOKS}


async def test_limit_and_offset(store: RunStore, queries: RunQueries) -> None:
    await store.runs.create([new_run(NOW + timedelta(seconds=n), idempotency_key=str(n)) for n in range(130)])
    for limit, expected in ((0, 20), (1, 1), (100, 100), (5000, 100)):
        page, token = await queries.page(Filters("p"), limit=limit, offset=0, page_token="")
        assert len(page) == expected
        assert token
    page, token = await queries.page(Filters("p"), limit=100, offset=120, page_token="")
    assert [run.idempotency_key for run in page] == [str(n) for n in range(9, -1, -1)]
    assert token == ""


async def test_the_last_page_has_no_token_even_when_it_is_full(store: RunStore, queries: RunQueries) -> None:
    await store.runs.create([new_run(idempotency_key=str(n)) for n in range(4)])
    page, token = await queries.page(Filters("p"), limit=4, offset=0, page_token="")
    assert (len(page), token) == (4, "")


async def test_a_made_up_position_in_a_page_token_is_refused(queries: RunQueries) -> None:
    from servicekit.rpc import page_tokens

    query = ["ListRuns", "p", "", "", "", ""]
    time, run_id = "2026-05-04T00:00:00Z", "0198f0a0-0000-7000-8000-000000000000"
    ids = (run_id.replace("-", ""), run_id.upper(), f"{{{run_id}}}", f"urn:uuid:{run_id}")
    times = """
        2026-05-04T00:00:00 2026-05-04 2026-05-04T00:00:00+00:00 2026-05-04T02:00:00+02:00 0001-01-01T00:00:00+14:00
        9999-12-31T23:59:59-14:00 0000-01-01T00:00:00Z 10000-01-01T00:00:00Z 2026-05-04T00:00:00.1Z infinity
        2026-05-04T00:00:00.123456789Z 2026-05-04T00:00:00.000Z 2026-02-30T00:00:00Z 2026-05-04T00:00:60Z
        ٢026-05-04T00:00:00Z
    """
    refused: list[list[Any]] = [[], ["x"], ["2026", "x"], [time, "x"], ["", "", ""], [1, 2]]
    refused += [*([time, other] for other in ids), *([other, run_id] for other in (*times.split(), f" {time}"))]
    for position in refused:
        token = page_tokens.encode(position, query=query)
        with pytest.raises(ServiceError) as failure:
            await queries.page(Filters("p"), limit=1, offset=0, page_token=token)
        assert failure.value.reason is Reason.PAGE_TOKEN_INVALID
    for first_or_last in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.500Z"):
        token = page_tokens.encode([first_or_last, run_id], query=query)
        assert await queries.page(Filters("p"), limit=1, offset=0, page_token=token) == ([], "")


async def test_changes_after_starts_where_each_reader_is(store: RunStore) -> None:
    one, two = await created(store, idempotency_key="1"), await created(store, idempotency_key="2")
    for number in range(1, 5):
        await apply(store, *(event(run.id, number, Run.RUNNING, completed=number) for run in (one, two)))
    found, _ = await store.history.after({one.id: 3, two.id: 0, new_run().run.id: 0}, limit=2)
    assert sorted((run.id, run.sequence) for run in found) == sorted(
        [(one.id, 4), (one.id, 5), (two.id, 1), (two.id, 2)]
    )
    assert await store.history.oldest_sequence(one.id) == 1
