"""How requests to the AI provider are counted, by how they end."""

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from executor_service.ai.errors import AIError
from executor_service.ai.factory import DEFAULT_MODEL
from executor_service.ai.metrics import AIMetrics
from executor_service.ai.provider import SuggestionProvider
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.suggesting import FOREVER, Build, titles


@pytest.fixture
def counted() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def counting(server: OpenAIServer, build: Build, counted: CollectorRegistry) -> SuggestionProvider:
    return build(metrics=AIMetrics(counted, {}))


def outcomes(counted: CollectorRegistry) -> dict[str, float]:
    """Return what has been counted by outcome, and check that the series of all others began with 0."""
    series = {
        sample.labels["outcome"]: sample.value
        for metric in counted.collect()
        for sample in metric.samples
        if sample.name == "playbook_runs_ai_requests_total" and sample.labels["model"] == DEFAULT_MODEL
    }
    assert set(series) == {
        "OK",
        "CANCELLED",
        "NO_ROOM",
        "INTERNAL_ERROR",
        "AI_AUTHENTICATION_FAILED",
        "AI_RATE_LIMITED",
        "AI_TIMEOUT",
        "AI_PROVIDER_ERROR",
        "AI_INVALID_RESPONSE",
    }
    return {outcome: value for outcome, value in series.items() if value}


async def test_answers_and_failures_are_counted_as_what_they_are(
    server: OpenAIServer, counting: SuggestionProvider, counted: CollectorRegistry
) -> None:
    server.behave(Behaviour(status=500, times=1), Behaviour(answer="not_json", times=1))
    await counting.suggest(titles("a"))
    server.behave(Behaviour(status=401))
    with pytest.raises(AIError):
        await counting.suggest(titles("b"))
    assert outcomes(counted) == {
        "AI_PROVIDER_ERROR": 1,
        "AI_INVALID_RESPONSE": 1,
        "OK": 1,
        "AI_AUTHENTICATION_FAILED": 1,
    }


async def test_a_request_of_a_run_that_is_cancelled_is_cancelled(
    server: OpenAIServer, counting: SuggestionProvider, counted: CollectorRegistry
) -> None:
    server.behave(Behaviour(delay_seconds=FOREVER))
    asking = asyncio.create_task(counting.suggest(titles("a")))
    await server.wait_for(lambda stats: stats.in_flight > 0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert outcomes(counted) == {"CANCELLED": 1}


async def test_what_nobody_expects_is_an_error_of_ours_and_not_somebody_s_cancel(
    counting: SuggestionProvider, counted: CollectorRegistry
) -> None:
    with pytest.raises(KeyError):
        await counting.suggest(replace(titles("a"), field="of no playbook"))
    assert outcomes(counted) == {"INTERNAL_ERROR": 1}
