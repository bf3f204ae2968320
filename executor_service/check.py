"""`executor-service check`: whether all that executor_service depends on is as it should be."""

import grpc
from playbooks.executor.v1.catalog_service_pb2 import GetProjectRequest
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub

from executor_service.ai.errors import AIError
from executor_service.ai.offline import OfflineProvider
from executor_service.ai.provider import ProductBrief, SuggestionProvider, SuggestionRequest
from executor_service.app import MIGRATIONS, NAME, make_provider
from executor_service.settings import ExecutorSettings
from servicekit.broker.diagnosis import broker_finding
from servicekit.diagnosis import Finding, failed, ok, skipped
from servicekit.postgres.diagnosis import database_findings
from servicekit.rpc.diagnosis import CALL_TIMEOUT, service_findings
from servicekit.telemetry.metrics import Metrics
from servicekit.telemetry.outages import first_line

AI_CHECK = "executor AI"
PRODUCT = ProductBrief("1", "Oak chair", "A chair of solid oak.")


async def check(settings: ExecutorSettings, with_ai: bool) -> list[Finding]:
    """Look at the database, the broker, the running service, and `with_ai` at the AI provider by one cheap request;
    change nothing."""
    return [
        *await database_findings(
            settings.database_url,
            service="executor",
            schema="executor",
            scripts=MIGRATIONS,
            command=NAME,
            variable="EXECUTOR_DATABASE_URL",
        ),
        await broker_finding("executor broker", settings.queue_url, settings.broker_queue_prefix),
        *await service_findings(settings, service="executor", name=NAME, read=_read),
        await _ai(settings, with_ai),
    ]


async def _read(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> object:
    try:
        request = GetProjectRequest(project_id="doctor")
        return await CatalogServiceStub(channel).GetProject(request, metadata=metadata, timeout=CALL_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:  # who asks was let in
            return None
        raise


async def _ai(settings: ExecutorSettings, with_ai: bool) -> Finding:
    try:
        provider = make_provider(settings, Metrics())
    except SystemExit as error:
        return failed(AI_CHECK, str(error), "correct the variables that it names")
    try:
        if isinstance(provider, OfflineProvider):
            return ok(AI_CHECK, "suggestions are written offline, without AI; OPENAI_API_KEY has a model write them")
        if not with_ai:
            return skipped(AI_CHECK, f"{provider.model} was not asked: --ai makes one request, of a fraction of a cent")
        return await _asked(provider)
    finally:
        await provider.close()


async def _asked(provider: SuggestionProvider) -> Finding:
    request = SuggestionRequest("seo_title", [PRODUCT], patience_seconds=CALL_TIMEOUT)
    try:
        answers = await provider.suggest(request)
    except AIError as error:
        return failed(AI_CHECK, first_line(error), "correct OPENAI_API_KEY, AI_MODEL, OPENAI_BASE_URL, or the account")
    if not answers.texts:
        why = "; ".join(answers.reasons.values())
        return failed(AI_CHECK, f"{provider.model} wrote nothing: {why}", "choose another AI_MODEL")
    return ok(AI_CHECK, f"{provider.model} answered")
