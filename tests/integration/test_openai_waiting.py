"""How long the OpenAI provider waits, and for whom: retries, slots, cancelled requests."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from executor_service.ai.provider import SuggestionProvider
from executor_service.ai.retry import RetryPolicy
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.suggesting import FOREVER, Build, Waits, suggested, titles


@pytest.mark.parametrize(("header", "expected"), [("7", 7.0), ("0.5", 0.5), ("3600", 30.0), ("soon", 0.25)])
async def test_retry_after_is_honoured_within_reason(
    server: OpenAIServer, provider: SuggestionProvider, waits: Waits, header: str, expected: float
) -> None:
    server.behave(Behaviour(status=429, retry_after=header, times=1))
    await provider.suggest(titles("a"))
    assert waits == [expected]


async def test_retry_after_may_be_a_date(server: OpenAIServer, provider: SuggestionProvider, waits: Waits) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    server.behave(Behaviour(status=503, retry_after=date, times=1))
    await provider.suggest(titles("a"))
    assert 15 < waits[0] <= 20


async def test_no_more_requests_than_allowed_are_under_way(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(delay_seconds=0.01))
    provider = build(concurrency=3)
    await asyncio.gather(*(provider.suggest(titles(f"p{number}")) for number in range(12)))
    assert server.stats().max_in_flight == 3
    assert server.stats().requests == 12


async def test_a_request_that_waits_to_be_repeated_delays_no_other(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(status=500, product_ids=["a"], times=1))
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await go_on.wait()

    provider = build(concurrency=1, retry=RetryPolicy(sleep=sleep))
    repeated = asyncio.create_task(provider.suggest(titles("a")))
    await waiting.wait()
    assert (await provider.suggest(titles("b"))).texts == suggested("b")
    go_on.set()
    assert (await repeated).texts == suggested("a")


async def test_a_project_with_many_requests_lets_others_through(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(delay_seconds=0.01))
    provider = build(concurrency=1)
    big = [provider.suggest(titles(f"big{number}", project_id="big")) for number in range(5)]
    await asyncio.gather(*big, provider.suggest(titles("small", project_id="small")))
    assert server.stats().batches.index(["small"]) == 2


async def test_a_cancelled_request_ends_at_once_and_hangs_up(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(delay_seconds=FOREVER, times=1))
    provider = build(concurrency=1)
    task = asyncio.create_task(provider.suggest(titles("a")))
    await server.wait_for(lambda stats: stats.in_flight == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_for(lambda stats: stats.aborted == 1)
    assert (await provider.suggest(titles("b"))).texts == suggested("b")  # the slot is free again
    assert server.stats().requests == 2


async def test_closing_twice_is_harmless(server: OpenAIServer, build: Build) -> None:
    provider = build()
    await provider.suggest(titles("a"))
    await provider.close()
    await provider.close()
