"""Ending runs from outside: Canceller and DeadlineKeeper over a real PostgreSQL and a real executor."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from playbooks.executor.v1.executor_service_pb2 import ExecuteRunRequest
from playbooks.executor.v1.executor_service_pb2_grpc import ExecutorServiceStub
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from devstack.ports import HOST, free_ports
from executor_service import app as executor_app
from executor_service.settings import ExecutorSettings
from runs_service import messages
from runs_service.delivery.cancellation import BATCH, RETRY_INTERVAL, Canceller
from runs_service.delivery.deadlines import DEADLINE_MARGIN, DeadlineKeeper
from runs_service.delivery.dispatcher import Dispatcher
from runs_service.delivery.event_applier import EventApplier
from runs_service.delivery.inline import InlineExecution
from runs_service.delivery.reconciler import Reconciler
from runs_service.executor_client import ExecutorClient, ExecutorRefused
from runs_service.messages import DEFAULT_DEADLINE
from runs_service.metrics import RunsMetrics
from runs_service.store import Dispatchable, RunStore
from servicekit.auth.tokens import ServiceTokens
from servicekit.clock import SystemClock
from servicekit.postgres.database import Database
from servicekit.rpc.channel import open_channel
from servicekit.telemetry.metrics import Metrics
from tests.support.runs import large_rules, new_run

LONG_AGO = timedelta(hours=1)


class Desk:
    """A process of runs_service as far as it ends runs. Its executor is at `target`."""

    def __init__(self, database: Database, target: str, secret: str, *, batch: int) -> None:
        self.clock = SystemClock()
        self.database = database
        self.store = RunStore(database, reconcile_after=LONG_AGO)
        self.announced: list[Run] = []
        self.events = events = EventApplier(self.store, self.clock, announce=self.announced.extend)
        self.channel = open_channel(target, executor_settings("", target))
        self.executor = executor = ExecutorClient(self.channel, ServiceTokens(secret, service="test", clock=self.clock))
        self.canceller = Canceller(self.store, executor, events, batch=batch)
        self.deadlines = DeadlineKeeper(self.store, executor, events, self.canceller, batch=batch)

    async def create(self, count: int = 1, *, age: timedelta = timedelta(0), **fields: Any) -> list[Run]:
        now = self.clock.now() - age
        wanted = [new_run(now, idempotency_key=f"{fields.get('playbook_id')} {n}", **fields) for n in range(count)]
        return [stored.run for stored in await self.store.runs.create(wanted)]

    async def execute(self, runs: Sequence[Run]) -> None:
        """Execute runs to their end at the executor, without their deadlines; runs_service gets no event."""
        for run in runs:
            job = messages.job(run, "r")
            job.ClearField("deadline")
            async for _ in ExecutorServiceStub(self.channel).ExecuteRun(ExecuteRunRequest(job=job), timeout=60):
                pass

    async def now(self, runs: Sequence[Run]) -> list[Run]:
        return [found for run in runs if (found := await self.store.runs.get(run.project_id, run.id))]

    async def statuses(self, runs: Sequence[Run]) -> list[str]:
        return [Run.Status.Name(run.status) for run in await self.now(runs)]


def executor_settings(url: str, listen: str, **more: Any) -> ExecutorSettings:
    values: dict[str, Any] = {"auth_mode": "disabled", "ai_provider": "offline"} | more
    return ExecutorSettings(database_url=url or "postgresql://localhost/unused", listen=listen, **values)


@asynccontextmanager
async def desk_at(
    database: Database, target: str, *, secret: str = "y" * 32, batch: int = BATCH
) -> AsyncIterator[Desk]:
    desk = Desk(database, target, secret, batch=batch)
    yield desk
    await desk.channel.close()


@pytest.fixture
async def executor(executor_database: str) -> AsyncIterator[str]:
    """The address of an executor."""
    async with executor_app.serving(executor_settings(executor_database, f"{HOST}:0")) as server:
        yield server.address


@pytest.fixture
async def desk(runs_database: Database, executor: str) -> AsyncIterator[Desk]:
    async with desk_at(runs_database, executor) as desk:
        yield desk


@pytest.fixture
async def lonely(runs_database: Database) -> AsyncIterator[Desk]:
    """A desk whose executor is away."""
    async with desk_at(runs_database, unused_address()) as desk:
        yield desk


def unused_address() -> str:
    return f"{HOST}:{free_ports(1)[0]}"


# Cancels


async def pending(database: Database) -> int:
    return int((await database.fetch_one("SELECT count(*) FROM runs.runs WHERE stop_pending"))[0])


async def request_cancels(desk: Desk, runs: Sequence[Run]) -> None:
    for run in runs:
        await desk.store.stops.request(run.id)


async def test_cancels_of_runs_that_are_too_large_for_one_call_are_sent_in_several(
    desk: Desk, runs_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    runs = await desk.create(BATCH, meta=RunMeta(rules=large_rules()))
    assert sum(run.ByteSize() for run in runs) > ExecutorSettings.model_fields["max_request_bytes"].default
    await request_cancels(desk, runs)
    await desk.canceller.tick()
    assert set(await desk.statuses(runs)) == {"CANCELLED"}
    assert await pending(runs_database) == 0
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_cancel_that_the_executor_rejects_delays_no_other(runs_database: Database, executor: str) -> None:
    async with desk_at(runs_database, executor, batch=2) as desk:
        unknown = await desk.create(3, playbook_id="of a newer version")
        runs = await desk.create(4)
        await request_cancels(desk, [*unknown, *runs])
        assert await desk.canceller.tick() is None, "they wait for the usual interval"
        assert set(await desk.statuses(runs)) == {"CANCELLED"}
        assert set(await desk.statuses(unknown)) == {"QUEUED"}
        assert await pending(runs_database) == 3


async def test_a_rejected_cancel_is_reported_to_its_caller_and_kept(desk: Desk, runs_database: Database) -> None:
    (run,) = await desk.create(playbook_id="of a newer version")
    with pytest.raises(ExecutorRefused, match="kept and sent again"):
        await desk.canceller.cancel(Dispatchable(run, "r"))
    assert await desk.statuses([run]) == ["QUEUED"]
    assert await pending(runs_database) == 1


async def test_an_unreachable_executor_is_tried_again_after_a_delay(lonely: Desk) -> None:
    runs = await lonely.create(2)
    await lonely.canceller.cancel(Dispatchable(runs[0], "r"))
    assert await lonely.statuses(runs) == ["CANCELLED", "QUEUED"]
    assert lonely.canceller._woken.is_set()
    lonely.canceller._woken.clear()  # as run() does
    assert await lonely.canceller.tick() == RETRY_INTERVAL
    assert not lonely.canceller._woken.is_set()


async def test_a_refusal_is_not_an_outage_nothing_spins_and_no_run_ends(
    runs_database: Database, executor_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = executor_settings(executor_database, f"{HOST}:0", auth_mode="jwt", auth_jwt_secret="x" * 32)
    async with executor_app.serving(settings) as server, desk_at(runs_database, server.address) as desk:
        runs = await desk.create(3, age=timedelta(seconds=DEFAULT_DEADLINE) + 2 * DEADLINE_MARGIN)
        older = await desk.create(2, age=LONG_AGO, playbook_id="missing_seo_description")
        await request_cancels(desk, runs)
        assert await desk.canceller.tick() is None, "a refusal is not an outage"
        await desk.deadlines.tick()
        assert [run.error_code for run in await desk.now(older)] == ["RUN_DEADLINE_EXCEEDED"] * 2
        assert not desk.deadlines._woken.is_set()
        assert set(await desk.statuses(runs)) == {"QUEUED"}
        await InlineExecution(desk.executor, desk.store, desk.events).execute(Dispatchable(runs[0], "r"))
        impatient = RunStore(runs_database, reconcile_after=timedelta(0))
        reconciler = Reconciler(
            impatient,
            desk.executor,
            desk.events,
            Dispatcher(None, InlineExecution(desk.executor, desk.store, desk.events), fallback=False),
            RunsMetrics(Metrics()),
        )
        await impatient.outbox.mark_dispatched({run.id: 3600.0 for run in runs})
        await reconciler.tick()
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert [error.split(":")[0].rpartition(" ")[2] for error in errors] == [
        "CancelRuns",
        "ReconcileRuns",
        "ExecuteRun",
    ], "the second refusal of ReconcileRuns within a minute is at DEBUG"
    assert all("AUTH_JWT_SECRET" in error for error in errors)


# Deadlines


async def test_a_run_that_ended_in_time_at_the_executor_is_not_failed_while_its_event_is_on_the_way(desk: Desk) -> None:
    done = await desk.create(2, age=LONG_AGO)
    unknown = await desk.create(1, age=LONG_AGO, playbook_id="missing_seo_description")
    await desk.execute(done)
    await desk.deadlines.tick()
    assert [run.error_code for run in await desk.now(done)] == ["PROJECT_NOT_FOUND"] * 2
    assert [run.error_code for run in await desk.now(unknown)] == ["RUN_DEADLINE_EXCEEDED"]


async def test_runs_past_their_deadline_end_while_no_executor_lives(runs_database: Database) -> None:
    async with desk_at(runs_database, unused_address(), batch=3) as lonely:
        runs = await lonely.create(5, age=LONG_AGO)
        await lonely.deadlines.tick()
        assert lonely.deadlines._woken.is_set(), "there are more"
        await lonely.deadlines.tick()
        assert [run.error_code for run in await lonely.now(runs)] == ["RUN_DEADLINE_EXCEEDED"] * 5


# Reconciling


async def test_the_reconciler_counts_what_it_makes_good(desk: Desk) -> None:
    impatient = RunStore(desk.database, reconcile_after=timedelta(0))
    metrics = Metrics()
    inline = InlineExecution(desk.executor, desk.store, desk.events)
    dispatcher = Dispatcher(None, inline, fallback=False)
    reconciler = Reconciler(impatient, desk.executor, desk.events, dispatcher, RunsMetrics(metrics))

    def recovered(what: str) -> float | None:
        return metrics.registry.get_sample_value("playbook_runs_recovered_total", {"what": what})

    done = await desk.create(2)
    (lost,) = await desk.create(1, playbook_id="missing_seo_description")
    await desk.execute(done)
    await impatient.outbox.mark_dispatched({run.id: 0.0 for run in (*done, lost)})
    await reconciler.tick()
    # Of each of the two runs its start and its end.
    assert (recovered("lost_event"), recovered("lost_job")) == (4, 1)
    await dispatcher.handed_over(lost.id)
    await reconciler.tick()
    assert (recovered("lost_event"), recovered("lost_job")) == (4, 1)
    await dispatcher.close()
