"""`runs-service check`: whether all that runs_service depends on is as it should be."""

from uuid import uuid4

import grpc
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from runs_service.app import MIGRATIONS, NAME
from runs_service.executor_client import ExecutorClient, ExecutorRefused
from runs_service.settings import RunsSettings
from servicekit.auth.tokens import ServiceTokens
from servicekit.broker.diagnosis import broker_finding
from servicekit.clock import SystemClock
from servicekit.diagnosis import Finding, failed, ok
from servicekit.errors import ServiceError
from servicekit.postgres.diagnosis import database_findings
from servicekit.rpc.channel import open_channel
from servicekit.rpc.diagnosis import CALL_TIMEOUT, service_findings
from servicekit.telemetry.outages import first_line


async def check(settings: RunsSettings, _with_ai: bool) -> list[Finding]:
    """Look at the database, the broker, the executor and the running service; change nothing."""
    return [
        *await database_findings(
            settings.database_url,
            service="runs",
            schema="runs",
            scripts=MIGRATIONS,
            command=NAME,
            variable="RUNS_DATABASE_URL",
            listen_url=settings.listen_database_url or settings.database_url,
        ),
        await broker_finding("runs broker", settings.queue_url, settings.broker_queue_prefix),
        await _executor("runs → executor", settings),
        *await service_findings(settings, service="runs", name=NAME, read=_read),
    ]


async def _read(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> object:
    request = ListRunsRequest(project_id="doctor", limit=1)
    return await RunsServiceStub(channel).ListRuns(request, metadata=metadata, timeout=CALL_TIMEOUT)


async def _executor(name: str, settings: RunsSettings) -> Finding:
    """Ask the executor about a run that there is not, as the reconciler does."""
    secret, *_ = settings.jwt_secrets or [None]
    demands = settings.token_demands
    tokens = ServiceTokens(secret, service=NAME, clock=SystemClock(), demands=demands) if secret else None
    channel = open_channel(settings.executor_target, settings)
    try:
        await ExecutorClient(channel, tokens).reconcile([str(uuid4())])
    except ExecutorRefused as error:
        cause = error.__cause__
        why = f"{cause.code().name}: {cause.details()}" if isinstance(cause, grpc.aio.AioRpcError) else str(error)
        return failed(
            name,
            f"{settings.executor_target} refuses us: {first_line(Exception(why))}",
            "give both services the same AUTH_JWT_SECRET and AUTH_JWT_AUDIENCE, and set both clocks by NTP",
        )
    except ServiceError as error:
        advice = "start executor-service, or correct EXECUTOR_TARGET and TLS_CA_FILE"
        return failed(name, f"{settings.executor_target}: {error}", advice)
    finally:
        await channel.close()
    return ok(name, f"{settings.executor_target} answers, and takes our token")
