"""The OpenAI provider with the real client against a real HTTP server."""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import SecretStr

from executor_service.ai.errors import AIError, AIRefusedError
from executor_service.ai.factory import DEFAULT_MODEL, build_provider
from executor_service.ai.prompts import PROMPT
from executor_service.ai.provider import ProductBrief, SuggestionProvider, SuggestionRequest
from executor_service.ai.retry import RetryPolicy
from executor_service.domain.ai_usage import AIUsage, UsageMeter
from tests.support.openai_server import Behaviour, OpenAIServer

FOREVER = 60.0  # seconds; no test waits for it


class Waits(list[float]):
    """Stands in for sleeping: remembers how long it would have taken."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture(scope="module")
def running_server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
def server(running_server: OpenAIServer) -> Iterator[OpenAIServer]:
    running_server.reset()
    yield running_server
    assert running_server.stats().rejected == []


@pytest.fixture
def waits() -> Waits:
    return Waits()


Build = Callable[..., SuggestionProvider]


@pytest.fixture
async def build(running_server: OpenAIServer, waits: Waits, few_authorities: None) -> AsyncIterator[Build]:
    built: list[SuggestionProvider] = []

    def build(**settings: Any) -> SuggestionProvider:
        settings = {
            "api_key": SecretStr(running_server.api_key),
            "base_url": running_server.base_url,
            "retry": RetryPolicy(sleep=waits, random=lambda: 0.0),
            **settings,
        }
        built.append(build_provider(**settings))
        return built[-1]

    yield build
    for provider in built:
        await provider.close()


@pytest.fixture
def provider(server: OpenAIServer, build: Build) -> SuggestionProvider:
    return build()


def titles(*product_ids: str, project_id: str = "") -> SuggestionRequest:
    products = [
        ProductBrief(product_id, product_id.upper(), f"<p>Article {product_id}</p>") for product_id in product_ids
    ]
    return SuggestionRequest("seo_title", products, project_id)


def suggested(*product_ids: str) -> dict[str, str]:
    return {product_id: f"SEO title for {product_id.upper()}" for product_id in product_ids}


# Answers


async def test_all_products_of_a_request_are_asked_for_at_once(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    assert (await provider.suggest(titles("a", "b", "c"))).texts == suggested("a", "b", "c")
    assert server.stats().batches == [["a", "b", "c"]]
    assert (provider.model, provider.prompt_version) == (DEFAULT_MODEL, PROMPT.version)


async def test_descriptions_are_asked_for_as_such(server: OpenAIServer, provider: SuggestionProvider) -> None:
    request = SuggestionRequest("seo_description", [ProductBrief("a", "Mug", "")])
    assert (await provider.suggest(request)).texts == {"a": "SEO description for Mug"}


async def test_no_products_need_no_request(server: OpenAIServer, provider: SuggestionProvider) -> None:
    assert (await provider.suggest(titles())).texts == {}
    assert server.stats().requests == 0


async def test_missing_products_alone_are_asked_for_again(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(answer="missing", product_ids=["b", "d"], times=1))
    assert (await provider.suggest(titles("a", "b", "c", "d"))).texts == suggested("a", "b", "c", "d")
    assert server.stats().batches == [["a", "b", "c", "d"], ["b", "d"]]


async def test_products_that_were_not_in_the_request_are_ignored(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="unknown_ids"))
    assert (await provider.suggest(titles("a", "b"))).texts == suggested("a", "b")


async def test_a_blank_text_is_an_answer(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(answer="blank", product_ids=["b"]))
    assert (await provider.suggest(titles("a", "b"))).texts == {**suggested("a"), "b": ""}
    assert server.stats().requests == 1


async def test_texts_are_one_clean_line(server: OpenAIServer, provider: SuggestionProvider) -> None:
    request = SuggestionRequest("seo_title", [ProductBrief("a", "漢字 “é”", ""), ProductBrief("b", "x" * 2_000, "")])
    texts = (await provider.suggest(request)).texts
    assert texts["a"] == "SEO title for 漢字 “é”"
    assert len(texts["b"]) < 1_000


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503},
        {"status": 409},
        {"answer": "hang_up"},
        {"answer": "not_json"},
        {"answer": "wrong_schema"},
        {"answer": "broken_body"},
        {"answer": "no_choices"},
    ],
    ids=str,
)
async def test_a_passing_fault_is_repeated_away(
    server: OpenAIServer, provider: SuggestionProvider, waits: Waits, fault: dict[str, Any]
) -> None:
    server.behave(Behaviour(times=2, **fault))
    assert (await provider.suggest(titles("a", "b"))).texts == suggested("a", "b")
    assert server.stats().batches == [["a", "b"]] * 3
    assert waits == [0.25, 0.5]


# Failures


AUTH, RATE, BROKEN, INVALID = (
    "AI_AUTHENTICATION_FAILED",
    "AI_RATE_LIMITED",
    "AI_PROVIDER_ERROR",
    "AI_INVALID_RESPONSE",
)
LASTING_FAULTS: list[tuple[dict[str, Any], str, int, str]] = [
    ({"status": 401}, AUTH, 1, r"refused the API key \(HTTP 401: .*\)\. Check OPENAI_API_KEY"),
    ({"status": 403}, AUTH, 1, r"refused the API key \(HTTP 403: .*\)\. Check OPENAI_API_KEY"),
    ({"status": 429}, RATE, 4, r"as too many \(HTTP 429: .*\); gave up after 4 attempts\. Retry the run in a few"),
    ({"status": 429, "retry_after": "7"}, RATE, 4, r"to come back in 7 s\); gave up after 4 attempts"),
    ({"status": 429, "error_code": "insufficient_quota"}, RATE, 1, r"used up \(HTTP 429: .*plan and billing"),
    ({"status": 400}, BROKEN, 1, r"did not accept the request \(HTTP 400: This is a made-up Bad Request\)"),
    ({"status": 404, "error_message": "no model x"}, BROKEN, 1, r"\(HTTP 404: no model x\)\. Check AI_MODEL"),
    ({"status": 422}, BROKEN, 1, r"\(HTTP 422: "),
    ({"status": 409}, BROKEN, 4, r"\(HTTP 409: .* after 4 attempts"),
    ({"status": 500}, BROKEN, 4, r"failed \(HTTP 500: .*\); gave up after 4 attempts\. .* retry the run later"),
    ({"status": 503}, BROKEN, 4, r"\(HTTP 503: .* after 4 attempts"),
    ({"answer": "hang_up"}, BROKEN, 4, r"could not be reached \(.*\); gave up .*Check OPENAI_BASE_URL"),
    ({"answer": "broken_body"}, INVALID, 6, r"not usable \(completion: no JSON.* after 4 attempts"),
    ({"answer": "no_choices"}, INVALID, 6, r"not usable \(choices: .* after 4 attempts"),
    (
        {"answer": "not_json"},
        INVALID,
        6,
        r"not usable \(suggestions: there is no JSON in it\); gave up",
    ),
    ({"answer": "wrong_schema"}, INVALID, 6, r"left out 2 of 2 products; gave up after 4 attempts"),
    ({"answer": "content_filter"}, INVALID, 3, r"content filter refused to write about all 2 products"),
    ({"answer": "refusal"}, INVALID, 3, r"content filter refused to write about all 2 products"),
    ({"status": 400, "error_code": "content_filter"}, INVALID, 3, r"content filter refused to write about all 2"),
    ({"answer": "length"}, INVALID, 3, r"length limit .*even for a single product\. Choose an AI_MODEL"),
]


@pytest.mark.parametrize(
    ("fault", "code", "requests", "message"), LASTING_FAULTS, ids=[str(case[0]) for case in LASTING_FAULTS]
)
async def test_a_lasting_fault_ends_with_its_code_and_says_what_to_do(
    server: OpenAIServer, provider: SuggestionProvider, fault: dict[str, Any], code: str, requests: int, message: str
) -> None:
    server.behave(Behaviour(**fault))
    with pytest.raises(AIError, match=message) as caught:
        await provider.suggest(titles("a", "b"))
    assert caught.value.code == code
    assert len(str(caught.value)) < 500
    assert server.stats().requests == requests


async def test_a_provider_that_never_answers_times_out(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(delay_seconds=FOREVER))
    with pytest.raises(AIError, match=r"did not answer within 0\.5 s; gave up after 4 attempts\.") as caught:
        await build(timeout_seconds=0.5).suggest(titles("a"))
    assert caught.value.code == "AI_TIMEOUT"
    await server.wait_for(lambda stats: stats.requests == 4)


async def test_a_provider_that_is_not_there(build: Build, waits: Waits) -> None:
    with OpenAIServer() as gone:
        pass
    with pytest.raises(AIError, match=r"could not be reached .* after 4 attempts.* Check OPENAI_BASE_URL") as caught:
        await build(base_url=gone.base_url).suggest(titles("a"))
    assert caught.value.code == "AI_PROVIDER_ERROR"
    assert waits == [0.25, 0.5, 1.0]


async def test_a_page_of_html_is_not_quoted(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(status=502, error_message=" "))
    with pytest.raises(AIError, match=r"\(HTTP 502: Bad Gateway\)"):
        await provider.suggest(titles("a"))


async def test_long_messages_of_the_provider_are_cut(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(status=400, error_message="very " * 1_000))
    with pytest.raises(AIError) as caught:
        await provider.suggest(titles("a"))
    assert len(str(caught.value)) < 400


async def test_texts_that_arrived_before_a_failure_are_handed_over(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="missing", product_ids=["b"], times=1), Behaviour(status=401))
    with pytest.raises(AIError, match="refused the API key") as caught:
        await provider.suggest(titles("a", "b", "c"))
    assert caught.value.partial == suggested("a", "c")


# Batches that the provider does not answer together


async def test_a_product_that_is_never_answered_has_a_reason(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="missing", product_ids=["b"]))
    answers = await provider.suggest(titles("a", "b", "c"))
    assert answers.texts == suggested("a", "c")
    assert answers.reasons == {"b": "The AI provider gave no answer for this product."}
    assert server.stats().batches == [["a", "b", "c"], ["b"], ["b"], ["b"]]


async def test_one_refused_product_does_not_spoil_the_others(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="content_filter", product_ids=["c"]))
    answers = await provider.suggest(titles("a", "b", "c", "d"))
    assert answers.texts == suggested("a", "b", "d")
    assert answers.reasons == {"c": "The AI provider's content filter refused to write about this product."}
    assert server.stats().batches == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"], ["c"], ["d"]]


async def test_a_request_refused_altogether_can_be_distinguished_from_other_failures(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="content_filter"))
    with pytest.raises(AIRefusedError, match="refused to write about the product of a request"):
        await provider.suggest(titles("a"))


async def test_an_answer_that_is_too_long_is_asked_for_in_halves(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="length", more_than=2))
    assert (await provider.suggest(titles(*"abcde"))).texts == suggested(*"abcde")
    assert server.stats().batches == [list("abcde"), ["a", "b"], ["c", "d", "e"], ["c"], ["d", "e"]]


# Waiting


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
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.wait_for(lambda stats: stats.aborted == 1)
    assert time.monotonic() - started < 1
    assert (await provider.suggest(titles("b"))).texts == suggested("b")  # the slot is free again
    assert server.stats().requests == 2


async def test_closing_twice_is_harmless(server: OpenAIServer, build: Build) -> None:
    provider = build()
    await provider.suggest(titles("a"))
    await provider.close()
    await provider.close()


# Secrets


def everything_shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that a person or a log gets to see of a failure."""
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("executor_service")]
    return "\n".join([*traceback.format_exception(error), repr(error), *ours])


@pytest.mark.parametrize("key", ["sk-wrong-0123456789", "no-prefix-0123456789"])
async def test_a_refusal_that_echoes_the_key_does_not_spread_it(
    running_server: OpenAIServer, build: Build, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    running_server.reset()
    provider = build(api_key=SecretStr(key))
    with pytest.raises(AIError, match=r"\(HTTP 401: Incorrect API key provided: \*\*\*\)") as caught:
        await provider.suggest(titles("a"))
    assert len(running_server.stats().rejected) == 1
    assert key not in everything_shown(caught.value, caplog) + repr(provider) + repr(vars(provider))


async def test_a_fault_that_echoes_the_key_does_not_spread_it(
    server: OpenAIServer, provider: SuggestionProvider, caplog: pytest.LogCaptureFixture
) -> None:
    server.behave(Behaviour(status=500, error_message=f"Bearer {server.api_key} is too much"))
    with pytest.raises(AIError, match=r"\(HTTP 500: Bearer \*\*\* is too much\)") as caught:
        await provider.suggest(titles("a"))
    assert "attempt 3 of 4" in caplog.text
    assert server.api_key not in everything_shown(caught.value, caplog)


async def test_the_clients_own_debug_log_keeps_the_key_out(
    server: OpenAIServer, provider: SuggestionProvider, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "openai", "httpx2"):  # those that servicekit's logs keep quiet otherwise
        caplog.set_level(logging.DEBUG, logger=name)
    await provider.suggest(titles("a"))
    assert "chat/completions" in caplog.text
    assert server.api_key not in caplog.text


# What it costs


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
    server.behave(Behaviour(delay_seconds=0.3))
    provider = build(timeout_seconds=0.05, economy_timeout_seconds=FOREVER, retry=RetryPolicy(attempts=1))
    assert (await provider.suggest(economy("a"))).texts == suggested("a")
    with pytest.raises(AIError, match=r"within 0.05 s"):
        await provider.suggest(titles("a"))
    hasty = build(economy_timeout_seconds=0.05, retry=RetryPolicy(attempts=1))
    with pytest.raises(AIError, match=r"within 0.05 s\. .*without meta\.economy"):
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
