"""The composition root: the only place that constructs things."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from playbooks.executor.v1.catalog_service_pb2_grpc import add_CatalogServiceServicer_to_server
from playbooks.executor.v1.executor_service_pb2_grpc import add_ExecutorServiceServicer_to_server

from executor_service.affected import AffectedLookup
from executor_service.ai.factory import build_provider
from executor_service.ai.provider import SuggestionProvider
from executor_service.catalog import Catalog
from executor_service.estimate import Estimator
from executor_service.executor import Executor, Heartbeat, Work
from executor_service.follow import Follower
from executor_service.inbox import JOBS_QUEUE, Inbox
from executor_service.library import Library
from executor_service.permissions import PERMISSIONS
from executor_service.playbooks.apply import Apply
from executor_service.playbooks.generate import Generate
from executor_service.records import Job, RunType
from executor_service.reporter import EVENTS_QUEUE, SWEEP_AGE, OutboxSweeper, Reporter
from executor_service.servicer import CatalogServicer, ExecutorServicer
from executor_service.settings import ExecutorSettings
from executor_service.stops import DeadlineKeeper, Stops
from executor_service.store.due import due
from executor_service.suggestions import Suggestions
from servicekit import migrations
from servicekit.broker import Consumer, MessageSigner, Publisher
from servicekit.clock import Clock, SystemClock
from servicekit.database import Database
from servicekit.lifecycle import LAST_STEPS, Ticker, end_within, running, stop_signal
from servicekit.metrics import Metrics
from servicekit.server import Registration, Server
from servicekit.sweep import Sweep

logger = logging.getLogger(__name__)

NAME = "executor-service"
HOLD_BACK = 1.5  # seconds; runs_service tells of cancels within a second of reaching us
MIGRATIONS = Path(__file__).parent / "migrations"


async def serve(settings: ExecutorSettings, clock: Clock | None = None) -> None:
    """Serve until the process is told to stop. Raises SystemExit when the port is taken, or the settings of the AI
    provider cannot work."""
    async with serving(settings, clock):
        await stop_signal()
        logger.info("stopping")
        end_within(settings.executor_grace_seconds + LAST_STEPS)


def migrate(settings: ExecutorSettings) -> None:
    """Bring the schema up to date. Raises SystemExit when there is no database."""
    migrations.upgrade_or_exit(settings.database_url, MIGRATIONS, variable="EXECUTOR_DATABASE_URL")


@asynccontextmanager
async def serving(settings: ExecutorSettings, clock: Clock | None = None) -> AsyncIterator[Server]:
    """Enter a running executor.

    At the end it refuses new calls, takes no more messages, lets running work end or hands it back, ends the calls
    that follow it, and publishes what is left to tell.
    """
    clock = clock or SystemClock()
    metrics = Metrics()
    if settings.metrics_listen:
        metrics.serve(settings.metrics_listen)

    async with AsyncExitStack() as stack:
        database = Database(
            settings.database_url, pool_size=settings.executor_database_pool_size, application_name=NAME
        )
        stack.push_async_callback(database.close)
        provider = _provider(settings)
        stack.push_async_callback(provider.close)
        signer = MessageSigner(settings.jwt_secrets)
        publisher = None
        if settings.queue_url:
            publisher = Publisher(settings.queue_url, settings.queue(EVENTS_QUEUE), metrics, signer)
            stack.push_async_callback(publisher.close)

        reporter = Reporter(database, publisher)
        suggestions = Suggestions(
            database,
            provider,
            reporter,
            clock,
            batch_size=settings.ai_batch_size,
            concurrency=settings.ai_concurrency,
            is_sure_of=lambda lease: executor.is_sure_of(lease),  # noqa: PLW0108  # it is made below
        )
        generate: Work = Generate(database, provider, suggestions, clock)
        affected = AffectedLookup(database)
        apply: Work = Apply(affected, clock)

        def work(job: Job) -> Work:
            return apply if job.run_type is RunType.APPLY else generate

        owner = str(uuid4())
        executor = Executor(
            database,
            reporter,
            work,
            owner=owner,
            concurrency=settings.executor_concurrency,
            lease_seconds=settings.executor_lease_seconds,
            grace_seconds=settings.executor_grace_seconds,
            clock=clock,
            hold_back_seconds=HOLD_BACK,
        )
        stops = Stops(database, reporter, abandon=executor.abandon)
        heartbeat = Heartbeat(database, executor, owner=owner, lease_seconds=settings.executor_lease_seconds)
        inbox = Inbox(database, executor)
        catalog = Catalog(database, clock)
        server = Server(
            settings,
            [
                Registration(
                    "playbooks.executor.v1.ExecutorService",
                    ExecutorServicer(
                        inbox,
                        Follower(database, reporter),
                        stops,
                        library=Library(database),
                        estimator=Estimator(database, provider, catalog),
                        clock=clock,
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
        )

        # Started in this order, stopped in the reverse one.
        seen_to: dict[str, Ticker] = {
            "overdue": DeadlineKeeper(stops),
            "unpublished": OutboxSweeper(database, reporter),
        }

        async def look() -> set[str]:
            async with database.autocommit() as connection:
                return await due(connection, unpublished_for=SWEEP_AGE)

        await stack.enter_async_context(running(reporter.marks, reporter, *seen_to.values(), Sweep(look, seen_to)))
        await stack.enter_async_context(running(heartbeat, affected, executor.endings, executor))
        await server.start()
        consumers: list[Consumer] = []
        if settings.queue_url:
            consumers.append(Consumer(settings.queue_url, settings.queue(JOBS_QUEUE), inbox.consume, metrics, signer))
        await stack.enter_async_context(running(*consumers))

        async def end_work() -> None:
            # At the same time: jobs are others' from now on, and calls that follow a run go on as long as the run may.
            await asyncio.gather(
                *(consumer.stop() for consumer in consumers),
                server.stop(settings.executor_grace_seconds),
                executor.stop(),
            )

        stack.push_async_callback(end_work)
        yield server


def _provider(settings: ExecutorSettings) -> SuggestionProvider:
    try:
        return build_provider(
            provider=settings.ai_provider,
            model=settings.ai_model,
            api_key=settings.openai_api_key,
            base_url=settings.openai_base_url,
            concurrency=settings.ai_concurrency,
            timeout_seconds=settings.ai_timeout_seconds,
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
