"""What requests to the AI provider cost: counts of tokens, and economy requests."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from executor_service.ai.errors import AIError
from executor_service.ai.provider import SuggestionProvider, SuggestionRequest
from executor_service.ai.retry import RetryPolicy
from executor_service.domain.ai_usage import AIUsage, UsageMeter
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.suggesting import FOREVER, Build, Waits, suggested, titles


async def test_each_request_that_goes_out_is_counted_and_each_answer_that_states_tokens(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    # Turned away, then an answer that spoils all, twice, which is asked for in halves.
    server.behave(Behaviour(status=429, times=1), Behaviour(answer="length", more_than=1))
    meter = UsageMeter()
    request = replace(titles("a", "b"), usage=meter)
    assert (await provider.suggest(request)).texts == suggested("a", "b")
    sent, answered = server.stats().requests, server.stats().statuses["200"]
    assert sent == answered + 1 >= 4
    assert meter.total == AIUsage(requests=sent, input_tokens=100 * answered, output_tokens=20 * answered)


async def test_an_answer_without_a_count_of_tokens_is_as_good(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    choice = {"message": {"content": '{"items": [{"id": "1", "text": "Mug"}]}'}, "finish_reason": "stop"}
    server.behave(Behaviour(body={"choices": [choice], "usage": None}))
    meter = UsageMeter()
    assert (await provider.suggest(replace(titles("a"), usage=meter))).texts == {"a": "Mug"}
    assert meter.total == AIUsage(requests=1)


# Economy


def economy(*product_ids: str, **fields: Any) -> SuggestionRequest:
    return replace(titles(*product_ids), economy=True, **fields)


async def test_economy_asks_for_flex_processing_and_nothing_else_does(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    assert (await provider.suggest(economy("a"))).texts == suggested("a")
    assert (await provider.suggest(titles("b"))).texts == suggested("b")
    assert server.stats().tiers == {"flex": 1, "": 1}


NO_ROOM = Behaviour(status=429, error_message="Resource Unavailable: flex processing is busy", error_code="busy")


async def test_economy_waits_until_there_is_room(
    server: OpenAIServer, provider: SuggestionProvider, waits: Waits
) -> None:
    server.behave(replace(NO_ROOM, times=12))
    assert (await provider.suggest(economy("a", patience_seconds=FOREVER))).texts == suggested("a")
    assert server.stats().tiers == {"flex": 13}
    assert waits == sorted(waits)
    assert waits[-1] == 30  # half a minute at the least, where a rate limit is looked at again after 10 to 20 s


async def test_economy_without_room_says_so_in_the_end(server: OpenAIServer, build: Build, waits: Waits) -> None:
    server.behave(NO_ROOM)
    times = iter(range(100))
    provider = build(retry=RetryPolicy(sleep=waits, random=lambda: 0.0, clock=lambda: next(times)))
    with pytest.raises(AIError, match=r"has no room for economy requests now .*Resource Unavailable") as failure:
        await provider.suggest(economy("a", patience_seconds=3))
    assert (failure.value.code, failure.value.too_late) == ("AI_RATE_LIMITED", True)
    assert "without meta.economy" in str(failure.value)
    server.behave(replace(NO_ROOM, error_message="Too many requests", times=1))
    assert (await build().suggest(economy("a"))).texts == suggested("a")  # a rate limit like any other


@pytest.mark.parametrize(
    "message",
    ["Flex is not available for this model.", "Invalid service_tier argument", "Service tier 'flex' is not supported."],
)
async def test_a_model_without_flex_processing_is_not_asked_at_the_full_price(
    server: OpenAIServer, provider: SuggestionProvider, message: str
) -> None:
    server.behave(Behaviour(status=400, error_message=message))
    with pytest.raises(AIError, match="takes no economy requests") as failure:
        await provider.suggest(economy("a"))
    assert failure.value.code == "AI_PROVIDER_ERROR"
    assert "without meta.economy, at the full price" in str(failure.value)
    assert server.stats().tiers == {"flex": 1}
    with pytest.raises(AIError, match="did not accept the request"):
        await provider.suggest(titles("a"))


async def test_economy_has_a_time_limit_of_its_own(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(delay_seconds=3.0))
    provider = build(timeout_seconds=0.5, economy_timeout_seconds=FOREVER, retry=RetryPolicy(attempts=1))
    assert (await provider.suggest(economy("a"))).texts == suggested("a")
    with pytest.raises(AIError, match=r"within 0.5 s"):
        await provider.suggest(titles("a"))
    hasty = build(economy_timeout_seconds=0.5, retry=RetryPolicy(attempts=1))
    with pytest.raises(AIError, match=r"within 0.5 s\. .*without meta\.economy"):
        await hasty.suggest(economy("a"))


async def test_economy_takes_nobody_elses_place(server: OpenAIServer, build: Build) -> None:
    provider = build(concurrency=1)
    server.behave(Behaviour(delay_seconds=FOREVER, times=1))
    slow = asyncio.create_task(provider.suggest(economy("a")))
    await server.wait_for(lambda stats: stats.in_flight == 1)
    async with asyncio.timeout(FOREVER / 4):
        assert (await provider.suggest(titles("b"))).texts == suggested("b")
    slow.cancel()
    await asyncio.wait([slow])
