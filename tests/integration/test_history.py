"""History beside other processes: what it remembers of runs, and that it never rests on what has changed since."""

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

from runs_service.store.history import History
from runs_service.store.runs import Runs
from runs_service.store.stops import Stops
from runs_service.store.version_cache import VersionCache
from servicekit.postgres.database import Database
from tests.support.runs import NOW, TERMINAL, event, new_run

LATER = timedelta(hours=1)


class Replica:
    """A process's runs, with what it remembers of them."""

    def __init__(self, database: Database) -> None:
        self.versions = VersionCache()
        self.runs = Runs(database, self.versions, reconcile_after=LATER)
        self.history = History(database, self.versions, reconcile_after=LATER)
        self.stops = Stops(database)

    async def create(self, key: str = "") -> str:
        (stored,) = await self.runs.create([new_run(idempotency_key=key)])
        return stored.run.id

    async def apply(self, *events: RunEvent) -> list[Run]:
        return (await self.history.apply_events(events, NOW)).history


@pytest.fixture
def replica(runs_database: Database) -> Replica:
    return Replica(runs_database)


@pytest.fixture
async def other(runs_database_url: str) -> AsyncIterator[Replica]:
    database = Database(runs_database_url, pool_size=2, application_name="other")
    yield Replica(database)
    await database.close()


async def test_progress_on_top_of_progress_that_another_process_noted_loses_nothing(
    replica: Replica, other: Replica
) -> None:
    """The status is what it was; only the number tells that the run has changed."""
    run_id = await replica.create()
    await replica.apply(event(run_id, 1, Run.RUNNING))
    await other.apply(event(run_id, 2, Run.RUNNING, completed=5))
    (after,) = await replica.apply(event(run_id, 3, Run.RUNNING, completed=7))
    assert (after.sequence, after.progress.completed) == (4, 7)
    history, _ = await replica.history.after({run_id: 0}, limit=10)
    assert [(run.sequence, run.progress.completed) for run in history] == [(1, 0), (2, 0), (3, 5), (4, 7)]


async def test_what_another_process_changed_is_forgotten_when_nothing_comes_on_top(
    replica: Replica, other: Replica
) -> None:
    """Else each late event would be refused first, and then read again."""
    ended, ahead = await replica.create("1"), await replica.create("2")
    await other.history.cancel_queued([ended], NOW)
    await other.apply(event(ahead, 5, Run.RUNNING))
    assert replica.versions.get(ended)
    assert replica.versions.get(ahead)
    assert await replica.apply(event(ended, 1, Run.RUNNING), event(ahead, 3, Run.RUNNING)) == []
    assert replica.versions.get(ended) is None
    assert replica.versions.get(ahead) is None


@pytest.mark.parametrize("status", TERMINAL, ids=Run.Status.Name)
async def test_a_run_that_has_ended_is_forgotten(status: Run.Status.ValueType, replica: Replica) -> None:
    run_id = await replica.create()
    await replica.apply(event(run_id, 1, Run.RUNNING))
    assert replica.versions.get(run_id)
    await replica.apply(event(run_id, 2, status))
    assert replica.versions.get(run_id) is None


async def test_a_run_that_is_ended_here_without_an_event_is_forgotten(replica: Replica) -> None:
    cancelled, overdue = await replica.create("1"), await replica.create("2")
    await replica.history.cancel_queued([cancelled], NOW)
    await replica.history.fail_overdue([overdue], NOW)
    assert replica.versions.get(cancelled) is None
    assert replica.versions.get(overdue) is None


async def test_a_stop_stays_pending_whatever_events_come(replica: Replica) -> None:
    """The executor does not know of it yet: what it reports is no answer."""
    run_id = await replica.create()
    await replica.stops.request(run_id)
    await replica.apply(event(run_id, 1, Run.RUNNING))
    assert [pending.run.id for pending in await replica.stops.pending(limit=10)] == [run_id]


async def test_events_of_another_project_are_returned_also_where_the_run_is_remembered(
    replica: Replica, other: Replica
) -> None:
    remembered, unknown = await replica.create("1"), await other.create("2")
    foreign = [event(run_id, 1, Run.RUNNING, project_id="q") for run_id in (remembered, unknown)]
    changed = await replica.history.apply_events(foreign, NOW)
    assert changed.history == []
    assert changed.foreign == foreign


async def test_a_run_with_the_id_of_another_is_refused_and_not_taken_for_a_repeated_key(replica: Replica) -> None:
    taken = await replica.create("1")
    stranger = new_run(idempotency_key="2")
    stranger.run.id = taken
    with pytest.raises(psycopg.errors.UniqueViolation):
        await replica.runs.create([stranger])
