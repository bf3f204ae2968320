"""Handing committed runs to a real broker, from a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from playbooks.executor.v1.job_pb2 import RunJobBatch
from playbooks.runs.v1.run_pb2 import RunMeta

from runs_service.delivery.dispatcher import Dispatcher
from runs_service.delivery.job_publisher import BATCH, JobPublisher
from runs_service.delivery.outbox import SWEEP_LIMIT
from runs_service.intake import Intake
from runs_service.messages import JOB_BYTES
from runs_service.queries import RunQueries
from runs_service.runs import Runs
from runs_service.store import Dispatchable, RunStore
from servicekit.background.outbox import SWEEP_AGE
from servicekit.background.tasks import running
from servicekit.broker import Publisher
from servicekit.clock import SystemClock
from servicekit.postgres.database import Database
from servicekit.telemetry.metrics import Metrics
from tests.support.broker import SIGNER, take_all
from tests.support.runs import large_rules, new_run, request
from tests.support.waiting import eventually


@dataclass
class Desk:
    """A process of runs_service as far as it creates and publishes."""

    store: RunStore
    runs: Runs
    dispatcher: Dispatcher
    jobs: JobPublisher
    database: Database
    broker: tuple[str, str]

    def messages(self) -> list[list[str]]:
        """Return the ids of the runs in each message at the broker, and take them out."""
        return [[job.run_id for job in RunJobBatch.FromString(body).jobs] for body, _ in take_all(*self.broker)]

    async def undispatched(self) -> int:
        return int((await self.database.fetch_one("SELECT count(*) FROM runs.runs WHERE dispatched_at IS NULL"))[0])


@pytest.fixture
async def desk(runs_database: Database, url: str, queue: str) -> AsyncIterator[Desk]:
    store = RunStore(runs_database, reconcile_after=timedelta(hours=1))
    publisher = Publisher(url, queue, Metrics(), SIGNER)
    jobs = JobPublisher(publisher, store)
    nothing: Any = None  # neither executes inline nor cancels
    dispatcher = Dispatcher(jobs, nothing, fallback=False)
    runs = Runs(
        store,
        RunQueries(store),
        dispatcher,
        canceller=nothing,
        intake=Intake(store, Metrics(), per_second=1_000_000, queued=1_000_000),
        clock=SystemClock(),
        announce=lambda _: None,
    )
    async with running(jobs.marks, jobs.batcher, runs.creations):
        yield Desk(store, runs, dispatcher, jobs, runs_database, (url, queue))
        await dispatcher.close()
    await publisher.close()


async def test_a_backlog_is_published_in_bounded_messages_each_run_once(desk: Desk) -> None:
    stored = await desk.store.runs.create([new_run(idempotency_key=str(n)) for n in range(2 * BATCH + 200)])
    lying_around = await desk.store.outbox.undispatched(older_than=SWEEP_AGE, limit=SWEEP_LIMIT)
    desk.dispatcher.dispatch(lying_around)
    desk.dispatcher.dispatch(lying_around)  # they are on their way already

    async def all_noted() -> bool:
        return await desk.undispatched() == 0

    await eventually(all_noted, 20)
    messages = desk.messages()
    assert [len(message) for message in messages] == [BATCH, BATCH, 200]
    assert sorted(run_id for message in messages for run_id in message) == sorted(found.run.id for found in stored)


async def test_runs_with_large_rules_go_out_in_messages_of_a_bounded_size(desk: Desk) -> None:
    wanted = [new_run(idempotency_key=str(n), meta=RunMeta(rules=large_rules())) for n in range(100)]
    stored = [Dispatchable(found.run, "r") for found in await desk.store.runs.create(wanted)]
    desk.dispatcher.dispatch(stored[:50])
    for item in stored[50:]:
        desk.dispatcher.dispatch([item])  # put together by the batcher

    async def all_noted() -> bool:
        return await desk.undispatched() == 0

    await eventually(all_noted, 20)
    bodies = [body for body, _ in take_all(*desk.broker)]
    assert sum(len(RunJobBatch.FromString(body).jobs) for body in bodies) == 100
    assert max(len(body) for body in bodies) < 1.05 * BATCH * JOB_BYTES
    assert len(bodies) < 10


async def test_a_request_that_cannot_be_made_a_run_fails_alone(desk: Desk) -> None:
    asked = [("ann", "1"), ("\ud800", "2"), ("bob", "3")]
    outcomes = await asyncio.gather(
        *(desk.runs.create(request(idempotency_key=key), user_id=user, request_id="r") for user, key in asked),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], UnicodeEncodeError)
    created = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert [(run.idempotency_key, run.created_by_user_id, new) for run, new in created] == [
        ("1", "ann", True),
        ("3", "bob", True),
    ]
    found: list[str] = []

    def published() -> bool:
        found.extend(run_id for message in desk.messages() for run_id in message)
        return len(found) == len(created)

    await eventually(published)
    assert sorted(found) == sorted(run.id for run, _ in created)


async def test_nothing_is_dispatched_after_the_close(desk: Desk) -> None:
    await desk.dispatcher.close()
    run, created = await desk.runs.create(request(), user_id="u", request_id="r")
    assert created
    assert await desk.store.runs.get("p", run.id) == run
    (other,) = await desk.store.runs.create([new_run(idempotency_key="other")])
    await desk.jobs.publish([Dispatchable(other.run, "r")])  # after everything that was to be published before
    assert desk.messages() == [[other.run.id]]
