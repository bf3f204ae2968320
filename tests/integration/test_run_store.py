"""RunStore over a real PostgreSQL: the promises that rest on its statements."""

import asyncio
import itertools
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from buf.validate import validate_pb2
from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest

from runs_service.predicates import PLAYBOOKS, RUN_TYPES, STATUSES
from runs_service.queries import RunQueries
from runs_service.store import Filters, RunStore
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.runs import NOW, TERMINAL, event, new_run

LATER = timedelta(hours=1)


@pytest.fixture
def store(runs_database: Database) -> RunStore:
    return RunStore(runs_database, reconcile_after=LATER)


@pytest.fixture
async def other(runs_database_url: str) -> AsyncIterator[RunStore]:
    """The store of another replica."""
    database = Database(runs_database_url, pool_size=5, application_name="other")
    yield RunStore(database, reconcile_after=LATER)
    await database.close()


async def created(store: RunStore, **fields: Any) -> Run:
    (stored,) = await store.runs.create([new_run(**fields)])
    assert stored.created
    return stored.run


async def apply(store: RunStore, *events: RunEvent) -> list[Run]:
    return (await store.history.apply_events(events, NOW)).history


# Creating


async def test_200_concurrent_requests_of_one_key_over_two_replicas_make_one_run(
    store: RunStore, other: RunStore
) -> None:
    stored = await asyncio.gather(
        *((store, other)[n % 2].runs.create([new_run(idempotency_key="k")]) for n in range(200))
    )
    outcomes = [outcome for (outcome,) in stored]
    assert len({outcome.run.id for outcome in outcomes}) == 1
    assert Counter(outcome.created for outcome in outcomes) == {True: 1, False: 199}
    assert all(outcome.same_request for outcome in outcomes)


async def test_batches_of_the_same_keys_in_any_order_do_not_block_each_other(store: RunStore, other: RunStore) -> None:
    def batch(n: int) -> list[Any]:
        wanted = [new_run(idempotency_key=f"k{key}") for key in range(40)]
        random.Random(n).shuffle(wanted)
        return wanted

    async with asyncio.timeout(20):
        batches = [batch(n) for n in range(20)]
        stored = await asyncio.gather(*((store, other)[n % 2].runs.create(b) for n, b in enumerate(batches)))
    by_key: dict[str, set[str]] = {}
    for wanted, outcomes in zip(batches, stored, strict=True):
        for one, outcome in zip(wanted, outcomes, strict=True):  # each outcome stands at its request's place
            assert outcome.run.idempotency_key == one.run.idempotency_key
            by_key.setdefault(one.run.idempotency_key, set()).add(outcome.run.id)
    assert len(by_key) == 40
    assert all(len(ids) == 1 for ids in by_key.values())
    assert sum(outcome.created for outcomes in stored for outcome in outcomes) == 40


async def test_one_key_twice_in_one_batch_makes_one_run(store: RunStore) -> None:
    one, two = await store.runs.create([new_run(idempotency_key="k"), new_run(idempotency_key="k")])
    assert one.run.id == two.run.id
    assert sorted((one.created, two.created)) == [False, True]


async def test_another_request_under_a_key_is_distinguished(store: RunStore) -> None:
    run = await created(store, idempotency_key="k")
    (again,) = await store.runs.create([new_run(idempotency_key="k", playbook_id="missing_seo_description")])
    assert (again.run.id, again.created, again.same_request) == (run.id, False, False)


async def test_keys_of_two_projects_have_nothing_to_do_with_each_other(store: RunStore) -> None:
    runs = [await created(store, idempotency_key="k", project_id=project) for project in ("p", "q")]
    assert runs[0].id != runs[1].id


@pytest.mark.parametrize("status", TERMINAL, ids=Run.Status.Name)
@pytest.mark.parametrize("fields", [{"idempotency_key": "k"}, {"scope_id": "s"}, {}], ids=["given", "scoped", "bare"])
async def test_when_a_key_is_free_again(status: Run.Status.ValueType, fields: dict[str, str], store: RunStore) -> None:
    first = await created(store, **fields)
    await apply(store, event(first.id, 1, Run.RUNNING))
    (while_running,) = await store.runs.create([new_run(**fields)])
    assert while_running.run.id == first.id
    await apply(store, event(first.id, 2, status))
    (after,) = await store.runs.create([new_run(**fields)])
    is_free = status != Run.SUCCEEDED or not fields
    assert after.created is is_free
    assert (after.run.id != first.id) is is_free


async def test_a_key_that_is_freed_and_taken_all_the_time_still_gets_an_answer(
    store: RunStore, other: RunStore, runs_database: Database
) -> None:
    done = asyncio.Event()

    async def end_runs() -> None:
        while not done.is_set():
            page = await other.runs.page(Filters("p", status="QUEUED"), limit=10, offset=0, before=None)
            await apply(other, *(event(run.id, 1, Run.FAILED) for run in page))
            await asyncio.sleep(0)

    ending = asyncio.create_task(end_runs())
    stored = await asyncio.gather(*(store.runs.create([new_run(idempotency_key="k")]) for _ in range(100)))
    done.set()
    await ending
    assert len(stored) == 100
    created = {outcome.run.id for (outcome,) in stored if outcome.created}
    assert {outcome.run.id for (outcome,) in stored} == created
    found = await rows(runs_database, "SELECT id, status FROM runs.runs")
    assert {str(row.id) for row in found} == created
    assert [row.status for row in found].count("QUEUED") <= 1


# Changing


async def test_concurrent_appliers_leave_a_history_without_gaps(
    store: RunStore, other: RunStore, runs_database: Database
) -> None:
    ids = [(await created(store, idempotency_key=str(n))).id for n in range(5)]
    events = [event(run_id, number, Run.RUNNING, completed=number) for run_id in ids for number in range(1, 21)]
    events += [event(run_id, 21, Run.SUCCEEDED, completed=100) for run_id in ids]
    chance = random.Random(7)
    events = [copy for one in events for copy in [one] * chance.choice([1, 2])]
    chance.shuffle(events)
    batches = [events[n : n + 6] for n in range(0, len(events), 6)]
    async with asyncio.timeout(20):
        await asyncio.gather(*((store, other)[n % 2].history.apply_events(b, NOW) for n, b in enumerate(batches)))
    history = (await store.history.after(dict.fromkeys(ids, 0), limit=1000)).changes
    for run_id in ids:
        steps = [step for step in history if step.id == run_id]
        assert [step.sequence for step in steps] == list(range(1, len(steps) + 1))
        assert steps[-1].status == Run.SUCCEEDED
        assert await store.runs.get("p", run_id) == steps[-1]
    stale = await rows(runs_database, "SELECT status, event_number FROM runs.runs")
    assert {tuple(row) for row in stale} == {("SUCCEEDED", 21)}


async def test_a_number_that_was_passed_changes_nothing(store: RunStore) -> None:
    run = await created(store)
    (*_, after) = await apply(store, event(run.id, 5, Run.RUNNING, completed=5))
    for late in (5, 4, 1):
        assert await apply(store, event(run.id, late, Run.RUNNING, attempt=2)) == []
    assert await store.runs.get("p", run.id) == after


async def test_events_of_unknown_runs_are_passed_over(store: RunStore) -> None:
    run = await created(store)
    unknown = new_run().run.id
    changed = await apply(store, event(unknown, 1, Run.RUNNING), event(run.id, 1, Run.RUNNING))
    assert [one.id for one in changed] == [run.id]


async def test_events_of_one_batch_apply_in_order(store: RunStore) -> None:
    run = await created(store)
    (*_, after) = await apply(
        store,
        event(run.id, 1, Run.RUNNING),
        event(run.id, 2, Run.RUNNING, completed=50),
        event(run.id, 3, Run.SUCCEEDED, completed=100),
    )
    assert after.sequence == 4
    assert [run.sequence for run in (await store.history.after({run.id: 1}, limit=2)).changes] == [2, 3]


async def test_a_change_that_fails_leaves_nothing_behind(store: RunStore, runs_database: Database) -> None:
    run = await created(store)

    unstorable = event(run.id, 2, Run.SUCCEEDED, scope_id="\0")
    with pytest.raises(psycopg.DataError):
        await apply(store, event(run.id, 1, Run.RUNNING), unstorable)
    assert await store.runs.get("p", run.id) == run
    assert len(await rows(runs_database, "SELECT 1 FROM runs.run_events")) == 1


# Reading


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


# Delivering


async def test_a_run_is_in_the_outbox_until_it_is_dispatched_or_has_an_event(store: RunStore) -> None:
    marked, reported, left = [await created(store, idempotency_key=str(n)) for n in range(3)]
    await store.outbox.mark_dispatched({marked.id: 0.0})
    await apply(store, event(reported.id, 1, Run.QUEUED))
    waiting = await store.outbox.undispatched(older_than=timedelta(0), limit=10)
    assert [(item.run.id, item.request_id) for item in waiting] == [(left.id, "r")]
    assert await store.outbox.undispatched(older_than=timedelta(days=36500), limit=10) == []


async def test_dispatched_at_is_the_time_of_the_publication_not_of_the_mark(
    store: RunStore, runs_database: Database
) -> None:
    run = await created(store)
    await store.outbox.mark_dispatched({run.id: 60.0})
    ((age,),) = await rows(runs_database, "SELECT extract(epoch FROM now() - dispatched_at)::float8 FROM runs.runs")
    assert 60.0 <= age < 90.0


async def test_two_replicas_never_take_the_same_silent_run(runs_database: Database, runs_database_url: str) -> None:
    at_once = RunStore(runs_database, reconcile_after=timedelta(0))
    stored = await at_once.runs.create([new_run(idempotency_key=str(n)) for n in range(100)])
    ids = {one.run.id for one in stored}
    await at_once.outbox.mark_dispatched(dict.fromkeys(ids, 0.0))
    database = Database(runs_database_url, pool_size=5, application_name="other")
    replicas = [RunStore(runs_database, reconcile_after=LATER), RunStore(database, reconcile_after=LATER)]
    taken: list[str] = []
    while len(taken) < 100:
        for batch in await asyncio.gather(*(replicas[n % 2].outbox.take_silent(limit=15) for n in range(4))):
            taken += [item.run.id for item in batch]
    assert Counter(taken) == Counter(ids)
    assert await replicas[0].outbox.take_silent(limit=100) == []
    await database.close()


async def test_what_is_not_dispatched_or_has_ended_is_not_silent(runs_database: Database) -> None:
    store = RunStore(runs_database, reconcile_after=timedelta(0))
    _, ended, silent = [await created(store, idempotency_key=str(n)) for n in range(3)]
    await store.outbox.mark_dispatched({ended.id: 0.0, silent.id: 0.0})
    await apply(store, event(ended.id, 1, Run.FAILED))
    assert [item.run.id for item in await store.outbox.take_silent(limit=10)] == [silent.id]


# What another process changed meanwhile


async def test_a_change_after_another_process_changed_the_run_loses_nothing(store: RunStore, other: RunStore) -> None:
    run = await created(store)  # and remembers it as it was
    await apply(other, event(run.id, 1, Run.RUNNING))
    (after,) = await apply(store, event(run.id, 2, Run.RUNNING, completed=7))
    assert (after.sequence, after.progress.completed) == (3, 7)
    history, _ = await store.history.after({run.id: 0}, limit=10)
    assert [change.sequence for change in history] == [1, 2, 3]


async def test_a_run_that_another_process_ended_stays_ended(store: RunStore, other: RunStore) -> None:
    run = await created(store)
    (ended,) = await other.history.cancel_queued([run.id], NOW)
    assert ended.status == Run.CANCELLED
    assert await apply(store, event(run.id, 1, Run.RUNNING)) == []
    assert await store.runs.get("p", run.id) == ended


async def test_only_the_runs_of_a_batch_that_another_process_changed_are_read_again(
    store: RunStore, other: RunStore
) -> None:
    mine, theirs = await created(store, idempotency_key="a"), await created(store, idempotency_key="b")
    await apply(other, event(theirs.id, 1, Run.RUNNING))
    changed = await apply(store, event(theirs.id, 2, Run.SUCCEEDED), event(mine.id, 1, Run.SUCCEEDED))
    assert {(run.id, run.sequence) for run in changed} == {(mine.id, 2), (mine.id, 3), (theirs.id, 3)}


async def test_an_event_with_a_passed_number_is_ignored_without_a_query(store: RunStore) -> None:
    run = await created(store)
    await apply(store, event(run.id, 4, Run.RUNNING))
    assert await apply(store, event(run.id, 4, Run.RUNNING), event(run.id, 3, Run.RUNNING, completed=9)) == []
