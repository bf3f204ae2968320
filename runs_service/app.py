"""The composition root of runs_service: the only place that constructs things."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2_grpc import add_RunsServiceServicer_to_server

from runs_service.delivery.cancellation import DEADLINE_MARGIN, DeadlineKeeper, Stopper
from runs_service.delivery.dispatcher import JOBS_QUEUE, SWEEP_AGE, Dispatcher, JobPublisher, OutboxSweeper
from runs_service.delivery.event_applier import EVENTS_QUEUE, EventApplier
from runs_service.delivery.inline import InlineExecution
from runs_service.delivery.reconciler import Reconciler
from runs_service.executor_client import ExecutorClient
from runs_service.permissions import PERMISSIONS
from runs_service.runs import Runs
from runs_service.servicer import RunsServicer
from runs_service.settings import RunsSettings
from runs_service.store import RunStore
from runs_service.watching.hub import Watchers, hints
from runs_service.watching.stream import RunStream
from servicekit.auth.tokens import ServiceTokens
from servicekit.background import tasks as lifecycle
from servicekit.background.sweep import INTERVAL, Sweep
from servicekit.broker import Consumer, MessageSigner, Publisher
from servicekit.clock import Clock, SystemClock
from servicekit.errors import Reason, ServiceError
from servicekit.postgres import migrations
from servicekit.postgres.database import Database
from servicekit.postgres.notifications import Listener, Notifier
from servicekit.rpc.channel import open_channel
from servicekit.rpc.server import Registration, Server
from servicekit.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

NAME = "runs-service"
CHANGES_CHANNEL = "run_changes"
ANSWER_TIMEOUT = 3.0  # seconds; all statements here are short, and callers are to hear of an outage soon
GRACE = 5.0  # seconds for calls under way when told to stop; those that wait for a run are answered at once
MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(settings: RunsSettings) -> None:
    """Bring the schema `runs` up to date; safe to run from many processes at once. Raises SystemExit when there is no
    database."""
    migrations.upgrade_or_exit(settings.database_url, MIGRATIONS, variable="RUNS_DATABASE_URL")


async def serve(settings: RunsSettings, clock: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    clock = clock or SystemClock()
    metrics = Metrics()
    database = Database(
        settings.database_url,
        pool_size=settings.runs_database_pool_size,
        application_name=NAME,
        answer_timeout=ANSWER_TIMEOUT,
    )
    store = RunStore(database, reconcile_after=timedelta(seconds=settings.runs_reconcile_seconds))

    secret, *_ = settings.jwt_secrets or [None]  # the first one signs
    tokens = ServiceTokens(secret, service=NAME, clock=clock, demands=settings.token_demands) if secret else None
    channel = open_channel(settings.executor_target, settings)
    executor = ExecutorClient(channel, tokens)

    watchers = Watchers(store)
    notifier = Notifier(database, CHANGES_CHANNEL)

    def announce(changes: Sequence[Run]) -> None:
        watchers.deliver(changes)
        notifier.tell(hints(changes))

    events = EventApplier(store, clock, announce=announce)
    inline = InlineExecution(executor, store, events)
    workers: list[lifecycle.Worker] = [
        watchers,
        notifier,
        Listener(
            settings.database_url,
            CHANGES_CHANNEL,
            hear=watchers.hear,
            missed=watchers.wake_all,
            answer_timeout=ANSWER_TIMEOUT,
        ),
    ]
    publisher = jobs = None
    if settings.queue_url:
        signer = MessageSigner(settings.jwt_secrets)
        publisher = Publisher(settings.queue_url, settings.queue(JOBS_QUEUE), metrics, signer)
        jobs = JobPublisher(publisher, store)
        workers += [
            jobs.marks,
            jobs.batcher,
            Consumer(settings.queue_url, settings.queue(EVENTS_QUEUE), events.consume, metrics, signer),
        ]
    else:
        logger.warning("no queue is configured: runs execute inline, CreateRun answers when they have ended")

    dispatcher = Dispatcher(jobs, inline, fallback=settings.runs_inline_fallback)
    stopper = Stopper(store, executor, events, clock, announce=announce)
    runs = Runs(store, dispatcher, stopper, watchers, clock)
    seen_to: dict[str, lifecycle.Ticker] = {
        "stops": stopper,
        "overdue": DeadlineKeeper(store, executor, events, clock, stopper, announce=announce),
        "undispatched": OutboxSweeper(store, dispatcher),
        "silent": Reconciler(store=store, executor=executor, events=events, dispatcher=dispatcher),
    }
    due = partial(store.due, undispatched_for=SWEEP_AGE, overdue_by=DEADLINE_MARGIN)
    sweep = Sweep(due, seen_to, interval=min(INTERVAL, settings.runs_reconcile_seconds))
    workers += [runs.creations, *seen_to.values(), sweep]

    servicer = RunsServicer(runs, RunStream(runs, watchers), executor)
    registration = Registration("playbooks.runs.v1.RunsService", servicer, add_RunsServiceServicer_to_server)
    server = Server(settings, [registration], PERMISSIONS, metrics)
    if settings.metrics_listen:
        metrics.serve(settings.metrics_listen)

    try:
        async with lifecycle.running(*workers):
            await server.start()
            await lifecycle.stop_signal()
            logger.info("stopping")
            lifecycle.end_within(GRACE + lifecycle.LAST_STEPS)
            await _end_calls(server, watchers, dispatcher)
    finally:
        if publisher:
            await publisher.close()
        await channel.close()
        await database.close()


async def _end_calls(server: Server, watchers: Watchers, dispatcher: Dispatcher) -> None:
    """Refuse new calls, answer those that wait for a run, and give the rest a moment to end."""
    await server.drain()
    watchers.end(
        ServiceError(
            Reason.SHUTTING_DOWN,
            "this server is stopping; watch again with the after_sequence you have",
            retry_after=timedelta(seconds=1),
        )
    )
    dispatcher.release()
    await server.stop(GRACE)
    await dispatcher.close()
