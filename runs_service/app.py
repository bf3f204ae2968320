"""The composition root of runs_service: the only place that constructs things."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from playbooks.runs.v1.runs_service_pb2_grpc import add_RunsServiceServicer_to_server

from runs_service.delivery.cancellation import Canceller
from runs_service.delivery.deadlines import DeadlineKeeper
from runs_service.delivery.dispatcher import Dispatcher
from runs_service.delivery.event_applier import EVENTS_QUEUE, EventApplier
from runs_service.delivery.inline import InlineExecution
from runs_service.delivery.job_publisher import JOBS_QUEUE, JobPublisher
from runs_service.delivery.outbox import OutboxSweeper
from runs_service.delivery.reconciler import Reconciler
from runs_service.executor_client import ExecutorClient
from runs_service.intake import Intake
from runs_service.metrics import RunsMetrics
from runs_service.permissions import PERMISSIONS
from runs_service.purge import Purge
from runs_service.queries import RunQueries
from runs_service.request_rules import RULES
from runs_service.retention import RunRetention
from runs_service.runs import Runs
from runs_service.servicer import RunsServicer
from runs_service.settings import RunsDatabaseSettings, RunsSettings
from runs_service.store import RunStore
from runs_service.usage import UsageFolder, UsageReports
from runs_service.watching.announcer import Announcer
from runs_service.watching.hub import CHANGES_CHANNEL, Watchers
from runs_service.watching.project_stream import ProjectStream
from runs_service.watching.projects import ProjectWatchers
from runs_service.watching.stream import RunStream
from servicekit.auth.tokens import ServiceTokens
from servicekit.background.sampling import Sampler
from servicekit.background.tasks import LAST_STEPS, Worker, force_exit_after, running, stop_signal
from servicekit.broker import Consumer, MessageSigner, Publisher
from servicekit.clock import Clock, SystemClock
from servicekit.errors import Reason, ServiceError
from servicekit.postgres.database import Database
from servicekit.postgres.metrics import PoolMetrics
from servicekit.postgres.notifications import Listener
from servicekit.postgres.schema import Schema
from servicekit.rpc.channel import open_channel
from servicekit.rpc.server import Registration, Server
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.outages import Outage
from servicekit.telemetry.tracing import tracing_by

logger = logging.getLogger(__name__)

NAME = "runs-service"
ANSWER_TIMEOUT = 3.0  # seconds; all statements here are short, and callers are to learn of an outage soon
GRACE = 5.0  # seconds for calls under way at a stop; those that wait for a run are answered at once
MAINTENANCE_INTERVAL = 5.0  # seconds between rounds of a maintenance task; one that finds nothing is one statement
MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(settings: RunsDatabaseSettings) -> str:
    """Bring the schema `runs` up to date, and return what was done; safe to run from many processes at once. Raises
    SystemExit when that is impossible."""
    from servicekit.postgres import migrations  # with SQLAlchemy and Alembic, which nothing else needs

    return migrations.upgrade_or_exit(settings.database_url, MIGRATIONS, variable="RUNS_DATABASE_URL")


async def serve(settings: RunsSettings, clock: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises SystemExit when the port is taken."""
    async with serving(settings, clock):
        await stop_signal()
        logger.info("stopping")
        force_exit_after(GRACE + LAST_STEPS)


@asynccontextmanager
async def serving(settings: RunsSettings, clock: Clock | None = None) -> AsyncIterator[Server]:
    """Enter a running runs_service.

    At the end it refuses new calls, answers those that wait for a run, gives the rest a moment to end, and then stops
    what runs in the background.
    """
    clock = clock or SystemClock()
    metrics = Metrics.at(settings.metrics_listen)
    of_runs = RunsMetrics(metrics)

    async with tracing_by(settings, service=NAME) as tracing, AsyncExitStack() as stack:
        database = Database(
            settings.database_url,
            pool_size=settings.runs_database_pool_size,
            application_name=NAME,
            answer_timeout=ANSWER_TIMEOUT,
        )
        stack.push_async_callback(database.close)
        PoolMetrics(metrics.registry, {"runs": database})
        store = RunStore(database, reconcile_after=timedelta(seconds=settings.runs_reconcile_seconds))
        queries = RunQueries(store)

        secret, *_ = settings.jwt_secrets or [None]  # the first one signs
        tokens = ServiceTokens(secret, service=NAME, clock=clock, demands=settings.token_demands) if secret else None
        channel = open_channel(settings.executor_target, settings)
        stack.push_async_callback(channel.close)
        executor = ExecutorClient(channel, tokens)

        watchers = Watchers(store.history)
        project_watchers = ProjectWatchers(store.changes)
        of_runs.watch(runs=watchers, projects=project_watchers)
        announcer = Announcer(database, watchers, project_watchers, of_runs)
        events = EventApplier(store, clock, announce=announcer.changed, tracing=tracing)
        workers: list[Worker] = [
            *announcer.workers,
            Listener(
                settings.listen_database_url or settings.database_url,
                CHANGES_CHANNEL,
                on_notification=announcer.on_notification,
                on_gap=announcer.on_gap,
                answer_timeout=ANSWER_TIMEOUT,
            ),
        ]
        jobs = None
        parts: dict[str, list[Outage]] = {}
        if settings.queue_url:
            signer = MessageSigner(settings.jwt_secrets)
            publisher = Publisher(settings.queue_url, settings.queue(JOBS_QUEUE), metrics, signer)
            stack.push_async_callback(publisher.close)
            await publisher.require_suitable()
            jobs = JobPublisher(publisher, store, tracing)
            consumer = Consumer(settings.queue_url, settings.queue(EVENTS_QUEUE), events.consume, metrics, signer)
            workers += [jobs.marks, jobs.batcher, consumer]
            parts["broker"] = [publisher.outage, consumer.outage]
        else:
            logger.warning("no queue is configured: runs execute inline, CreateRun answers when they have ended")

        dispatcher = Dispatcher(jobs, InlineExecution(executor, store, events), fallback=settings.runs_inline_fallback)
        interval = min(MAINTENANCE_INTERVAL, settings.runs_reconcile_seconds)
        canceller = Canceller(store, executor, events, interval=interval)
        runs = Runs(
            store,
            queries,
            dispatcher,
            canceller,
            clock,
            intake=Intake(
                store, metrics, per_second=settings.runs_max_creates_per_second, queued=settings.runs_max_queued
            ),
            announce=announcer.created,
        )
        maintenance: list[Worker] = [
            canceller,
            DeadlineKeeper(store, executor, events, canceller, interval=interval),
            OutboxSweeper(store, dispatcher, of_runs, interval=interval),
            Reconciler(store, executor, events, dispatcher, of_runs, interval=interval),
            RunRetention(store, clock, kept=settings.retention),
            UsageFolder(store),
        ]
        samplers = [Sampler(store.backlog, of_runs.backlog)] if settings.metrics_listen else []
        streams = RunStream(queries, watchers), ProjectStream(store, project_watchers)
        reports, purge = UsageReports(store, clock), Purge(store, executor, canceller)
        servicer = RunsServicer(
            runs, queries, *streams, executor, usage=reports, purge=purge, broker=parts.get("broker", ())
        )
        registration = Registration("playbooks.runs.v1.RunsService", servicer, add_RunsServiceServicer_to_server)
        schema = Schema(database, "runs", MIGRATIONS, command=NAME)
        server = Server(
            settings,
            [registration],
            PERMISSIONS,
            metrics,
            check=schema.problem,
            parts=parts,
            rules=RULES,
            tracing=tracing,
        )

        # Started in this order, stopped in the reverse one.
        await stack.enter_async_context(running(*workers, runs.creations, runs.repeats, *maintenance, *samplers))
        await server.start()
        stack.push_async_callback(_end_calls, server, watchers, project_watchers, dispatcher)
        yield server


async def _end_calls(
    server: Server, watchers: Watchers, project_watchers: ProjectWatchers, dispatcher: Dispatcher
) -> None:
    """Refuse new calls, answer those that wait for a run, and give the rest a moment to end."""
    await server.drain()
    watchers.end(_stopping("the after_sequence you have"))
    project_watchers.end(_stopping("the position you have as `after`"))
    dispatcher.release()
    await server.stop(GRACE)
    await dispatcher.close()


def _stopping(resume: str) -> ServiceError:
    return ServiceError(
        Reason.SHUTTING_DOWN,
        f"this server is stopping; watch again with {resume}",
        retry_after=timedelta(seconds=1),
    )
