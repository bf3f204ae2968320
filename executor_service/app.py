"""The composition root: the only place that constructs things."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from playbooks.executor.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server
from playbooks.executor.v1.executor_service_pb2_grpc import add_ExecutorServiceServicer_to_server

from executor_service.ai.factory import build_provider
from executor_service.ai.metrics import AIMetrics
from executor_service.ai.prices import read_prices
from executor_service.ai.provider import SuggestionProvider
from executor_service.catalog import Catalog
from executor_service.domain.execution import Job, RunType
from executor_service.execution.cancellation import Cancellation, DeadlineSweeper
from executor_service.execution.claimer import Claimer
from executor_service.execution.event_publisher import EVENTS_QUEUE, EventPublisher, OutboxSweeper
from executor_service.execution.follower import Follower
from executor_service.execution.inbox import JOBS_QUEUE, Inbox
from executor_service.execution.leases import Heartbeat, Leases
from executor_service.execution.outcomes import OutcomeWriter
from executor_service.execution.pipeline import Pipeline
from executor_service.execution.slots import Slots
from executor_service.execution.types import Work
from executor_service.metrics import ExecutorMetrics
from executor_service.permissions import PERMISSIONS
from executor_service.purge import Purge
from executor_service.queries import Queries
from executor_service.retention import ExecutorRetention
from executor_service.servicer import CatalogServicer, ExecutorServicer
from executor_service.settings import LEASE_CONNECTIONS, ExecutorDatabaseSettings, ExecutorSettings
from executor_service.store.backlog import Backlog
from executor_service.work.affected import AffectedLookup
from executor_service.work.apply import Apply
from executor_service.work.estimate import Estimator
from executor_service.work.generate import Generate
from executor_service.work.heavy_reads import HeavyReads
from executor_service.work.suggestion_fetcher import SuggestionFetcher
from servicekit.background.sampling import Sampler
from servicekit.background.tasks import LAST_STEPS, force_exit_after, running, stop_signal
from servicekit.broker import Consumer, MessageSigner, Publisher
from servicekit.clock import Clock, SystemClock
from servicekit.postgres.database import Database
from servicekit.postgres.metrics import PoolMetrics
from servicekit.postgres.schema import Schema
from servicekit.rpc.server import Registration, Server
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.tracing import tracing_by

logger = logging.getLogger(__name__)

NAME = "executor-service"
STARTUP_DELAY = 1.5  # seconds; runs_service sends its cancels within a second of reaching an executor
MIGRATIONS = Path(__file__).parent / "migrations"


async def serve(settings: ExecutorSettings, clock: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises SystemExit when the port is taken, or the settings of the AI
    provider cannot work."""
    async with serving(settings, clock):
        await stop_signal()
        logger.info("stopping")
        force_exit_after(settings.executor_grace_seconds + LAST_STEPS)


def migrate(settings: ExecutorDatabaseSettings) -> str:
    """Bring the schema up to date, and return what was done. Raises SystemExit when that is impossible."""
    from servicekit.postgres import migrations  # with SQLAlchemy and Alembic, which nothing else needs

    return migrations.upgrade_or_exit(settings.database_url, MIGRATIONS, variable="EXECUTOR_DATABASE_URL")


@asynccontextmanager
async def serving(settings: ExecutorSettings, clock: Clock | None = None) -> AsyncIterator[Server]:
    """Enter a running executor.

    At the end it refuses new calls, consumes no more messages, lets running work end or hands it back, ends the calls
    that follow it, and publishes what is left.
    """
    clock = clock or SystemClock()
    metrics = Metrics.at(settings.metrics_listen)
    of_executor = ExecutorMetrics(metrics, slots=settings.executor_concurrency)

    async with tracing_by(settings, service=NAME) as tracing, AsyncExitStack() as stack:

        def pool(size: int, beside: Database | None = None) -> Database:
            database = Database(settings.database_url, pool_size=size, application_name=NAME, beside=beside)
            stack.push_async_callback(database.close)
            return database

        # Three pools, so that leases wait neither for callers nor for long work, and work not for callers.
        lease_database = pool(LEASE_CONNECTIONS)
        work_database = pool(settings.executor_database_pool_size, lease_database)
        callers = pool(settings.caller_connections, lease_database)
        PoolMetrics(metrics.registry, {"leases": lease_database, "work": work_database, "callers": callers})
        heavy_reads = HeavyReads(at_once=settings.heavy_reads, metrics=metrics)
        stack.push_async_callback(heavy_reads.close)
        provider = make_provider(settings, metrics)
        stack.push_async_callback(provider.close)
        signer = MessageSigner(settings.jwt_secrets)
        broker = (
            Publisher(settings.queue_url, settings.queue(EVENTS_QUEUE), metrics, signer) if settings.queue_url else None
        )
        if broker:
            stack.push_async_callback(broker.close)
            await broker.require_suitable()

        # Execution
        publisher = EventPublisher(lease_database, broker, tracing)
        leases = Leases(lease_database, of_executor, owner=str(uuid4()), seconds=settings.executor_lease_seconds)
        outcomes = OutcomeWriter(lease_database)
        fetcher = SuggestionFetcher(
            work_database,
            provider,
            leases,
            publisher,
            clock,
            metrics=of_executor,
            batch_size=settings.ai_batch_size,
            concurrency=settings.ai_concurrency,
        )
        generate: Work = Generate(work_database, provider, fetcher, clock)
        affected = AffectedLookup(work_database)
        apply: Work = Apply(affected, clock)

        def work(job: Job) -> Work:
            return apply if job.run_type is RunType.APPLY else generate

        pipeline = Pipeline(work_database, leases, outcomes, publisher, work=work, clock=clock, tracing=tracing)
        slots = Slots(leases, count=settings.executor_concurrency)
        claimer = Claimer(
            lease_database,
            leases,
            slots,
            pipeline,
            clock,
            grace_seconds=settings.executor_grace_seconds,
            startup_delay=STARTUP_DELAY,
        )
        inbox = Inbox(lease_database, leases, slots, claimer)
        cancellation = Cancellation(lease_database, leases, publisher)

        consumers: list[Consumer] = []
        if settings.queue_url:
            consumers.append(Consumer(settings.queue_url, settings.queue(JOBS_QUEUE), inbox.consume, metrics, signer))

        # Calls
        catalog = Catalog(
            callers,
            clock,
            metrics,
            default_plan=settings.default_plan,
            max_products=settings.executor_max_products,
        )
        server = Server(
            settings,
            [
                Registration(
                    "playbooks.executor.v1.ExecutorService",
                    ExecutorServicer(
                        inbox,
                        Follower(lease_database, publisher),
                        cancellation,
                        queries=Queries(callers),
                        estimator=Estimator(callers, provider, catalog, heavy_reads, batch_size=settings.ai_batch_size),
                        clock=clock,
                        purge=Purge(callers, cancellation, clock),
                    ),
                    add_ExecutorServiceServicer_to_server,
                ),
                Registration(
                    "playbooks.executor.v1.CatalogService",
                    CatalogServicer(catalog),
                    add_CatalogServiceServicer_to_server,
                ),
            ],
            PERMISSIONS,
            metrics,
            check=Schema(lease_database, "executor", MIGRATIONS, command=NAME).problem,
            parts={"broker": [broker.outage, *(consumer.outage for consumer in consumers)]} if broker else {},
            tracing=tracing,
        )

        # Started in this order, stopped in the reverse one.
        retention = ExecutorRetention(callers, clock, kept=settings.retention)
        sweepers = DeadlineSweeper(cancellation), OutboxSweeper(lease_database, publisher), retention
        samplers = [Sampler(Backlog(lease_database), of_executor.backlog)] if settings.metrics_listen else []
        await stack.enter_async_context(running(publisher.marks, publisher, *sweepers, *samplers))
        await stack.enter_async_context(running(Heartbeat(leases), affected, outcomes, claimer))
        await server.start()
        await stack.enter_async_context(running(*consumers))

        async def end_work() -> None:
            # At the same time: jobs are others' from now on, and calls that follow a run go on as long as the run may.
            await asyncio.gather(
                *(consumer.stop() for consumer in consumers),
                server.stop(settings.executor_grace_seconds),
                claimer.stop(),
            )

        stack.push_async_callback(end_work)
        yield server


def make_provider(settings: ExecutorSettings, metrics: Metrics) -> SuggestionProvider:
    """Return the provider that the settings name. Raises SystemExit when they cannot work."""
    prices = read_prices(settings.ai_prices) if settings.ai_prices else {}
    try:
        provider = build_provider(
            provider=settings.ai_provider,
            model=settings.ai_model,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            concurrency=settings.ai_concurrency,
            timeout_seconds=settings.ai_timeout_seconds,
            economy_timeout_seconds=settings.ai_economy_timeout_seconds,
            metrics=AIMetrics(metrics.registry, prices),
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if prices and provider.model not in prices:
        logger.warning("AI_PRICES has no prices of %s: what its tokens cost is not counted", provider.model)
    return provider
