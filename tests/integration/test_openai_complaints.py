"""Errors of providers, in every status and form, and the waits that they ask for."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from executor_service.ai.errors import AIError
from executor_service.ai.provider import SuggestionProvider, SuggestionRequest
from executor_service.ai.retry import RetryPolicy
from executor_service.ai.waits import wait_of
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.processor import least_seconds
from tests.support.suggesting import Build, suggested, titles

AUTH, RATE, BROKEN = "AI_AUTHENTICATION_FAILED", "AI_RATE_LIMITED", "AI_PROVIDER_ERROR"
DEADLINE = 600.0  # seconds


@pytest.fixture
def server(running_server: OpenAIServer) -> OpenAIServer:
    running_server.reset()
    return running_server


def error(**fields: object) -> dict[str, Any]:
    return {"error": fields}


def choice(**fields: object) -> dict[str, Any]:
    return {"id": "1", "choices": [{"message": {"role": "assistant", "content": ""}, **fields}]}


# The words are quoted, the code decides. Status, body, run error code, requests.
COMPLAINTS: list[tuple[int, object, str, int]] = [
    (200, error(code=429, message="Busy model"), RATE, 4),
    (200, error(code="429", message="Busy model"), RATE, 4),
    (200, error(code="rate_limit_exceeded", message="Busy model"), RATE, 4),
    (200, error(status="RESOURCE_EXHAUSTED", message="Busy model"), RATE, 4),
    (200, {"choices": None, **error(code=429, message="Busy model")}, RATE, 4),
    (200, {"choices": [], **error(code=502, message="Busy model")}, BROKEN, 4),
    (200, choice(finish_reason="error", error={"code": 429, "message": "Busy model"}), RATE, 4),
    (200, choice(finish_reason=None, error={"code": 503, "message": "Busy model"}), BROKEN, 4),
    (200, choice(finish_reason="error", error="Busy model"), BROKEN, 4),
    (200, error(code=401, message="No busy model"), AUTH, 1),
    (200, error(code=404, message="No busy model"), BROKEN, 1),
    (200, error(message="Busy model"), BROKEN, 4),
    (200, {"error": "Busy model"}, BROKEN, 4),
    (200, "Busy model", BROKEN, 4),
    (200, '"Busy model"', BROKEN, 4),
    (200, {"detail": "Busy model"}, BROKEN, 4),
    (200, [error(code=429, message="Busy model")], RATE, 4),
    (200, {"base_resp": {"status_code": 1002, "status_msg": "Busy model"}}, BROKEN, 4),
    (500, {"error": "Busy model"}, BROKEN, 4),
    (500, {"detail": "Busy model"}, BROKEN, 4),
    (422, {"detail": [{"loc": ["body"], "msg": "Busy model", "type": "missing"}]}, BROKEN, 1),
    (400, [error(code=400, message="Busy model")], BROKEN, 1),
    (400, {"object": "error", "message": "Busy model", "code": 400}, BROKEN, 1),
    (400, {"error": "bad_request", "message": "Busy model"}, BROKEN, 1),
    (400, {"errors": [{"message": "Busy model"}]}, BROKEN, 1),
    (400, {"error": {"message": {"message": "Busy model"}}}, BROKEN, 1),
    (400, {"error": {"message": "Provider said", "metadata": {"raw": "Busy model"}}}, BROKEN, 1),
    (503, "Busy model", BROKEN, 4),
    (429, "Busy model", RATE, 4),
]


@pytest.mark.parametrize(("status", "body", "code", "requests"), COMPLAINTS, ids=lambda value: str(value)[:60])
async def test_an_error_is_reported_as_what_it_is_in_its_own_words(
    server: OpenAIServer, provider: SuggestionProvider, status: int, body: object, code: str, requests: int
) -> None:
    server.behave(Behaviour(status=status, body=body))
    with pytest.raises(AIError, match=rf"\(HTTP {status}.*: .*usy model") as caught:
        await provider.suggest(titles("a", "b"))
    assert caught.value.code == code
    assert server.stats().requests == requests
    assert "structured outputs" not in str(caught.value)


async def test_an_error_in_a_good_status_is_repeated_away(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(body=error(code=503, message="Busy"), times=2))
    assert (await provider.suggest(titles("a", "b"))).texts == suggested("a", "b")


async def test_an_error_in_a_good_status_repeats_no_product_text(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(body=error(code=400, message=f"Cannot write about QX7731 with {server.api_key}")))
    request = SuggestionRequest("seo_title", [*titles("a").products, *titles("qx7731").products])
    with pytest.raises(AIError) as caught:
        await provider.suggest(request)
    assert "QX7731" not in str(caught.value)
    assert server.api_key not in str(caught.value)


MONEY: list[tuple[int, object]] = [
    (402, error(message="Insufficient Balance")),
    (402, "Payment Required"),
    (200, error(code=402, message="This request requires more credits")),
    (429, error(code="billing_not_active", message="Your account is not active")),
    (429, error(type="insufficient_quota", message="You exceeded your current quota")),
    (429, error(code="insufficient_quota", message="You exceeded your current quota")),
    (403, error(code="billing_hard_limit_reached", message="Hard limit")),
    (400, error(type="invalid_request_error", message="Your credit balance is too low to access the API")),
]


@pytest.mark.parametrize(("status", "body"), MONEY, ids=lambda value: str(value)[:60])
async def test_an_empty_account_is_asked_once_and_reported_as_such(
    server: OpenAIServer, provider: SuggestionProvider, status: int, body: object
) -> None:
    server.behave(Behaviour(status=status, body=body))
    with pytest.raises(AIError, match=r"quota is used up .*plan and billing") as caught:
        await provider.suggest(titles("a", "b"))
    assert caught.value.code == RATE
    assert "OPENAI_BASE_URL" not in str(caught.value)
    assert server.stats().requests == 1


TOO_LONG: list[tuple[int, object]] = [
    (400, error(code="context_length_exceeded", message="Too much")),
    (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 2048 tokens. However, you requested 4096 tokens",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    (400, error(code=400, message="the request exceeds the available context size", type="exceed_context_size_error")),
    (500, error(code=500, message="the request exceeds the available context size. try increasing the context size")),
    (400, error(message="prompt is too long: 210000 tokens > 200000 maximum", type="invalid_request_error")),
    (413, "<html>Request Entity Too Large</html>"),
    (
        429,
        error(code="rate_limit_exceeded", message="Request too large for gpt-x on tokens per min: Limit 30000"),
    ),
    (200, error(code=400, message="This endpoint's maximum context length is 8192 tokens")),
]


@pytest.mark.parametrize(("status", "body"), TOO_LONG, ids=lambda value: str(value)[:60])
async def test_a_request_that_is_too_long_is_halved(
    server: OpenAIServer, provider: SuggestionProvider, status: int, body: object
) -> None:
    server.behave(Behaviour(status=status, body=body, more_than=2))
    assert (await provider.suggest(titles("a", "b", "c", "d"))).texts == suggested("a", "b", "c", "d")
    assert server.stats().batches == [["a", "b", "c", "d"], ["a", "b"], ["c", "d"]]


# Waiting

RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "20s"}
STATED: list[tuple[dict[str, str], object]] = [
    ({"x-ratelimit-reset-requests": "20s"}, None),
    ({"x-ratelimit-reset-requests": "20s", "x-ratelimit-reset-tokens": "120ms"}, None),
    (
        {
            "x-ratelimit-remaining-requests": "99",
            "x-ratelimit-reset-requests": "8m",
            "x-ratelimit-remaining-tokens": "0",
            "x-ratelimit-reset-tokens": "0m20s",
        },
        None,
    ),
    ({"ratelimit-reset": "20"}, None),
    ({"retry-after": "20s"}, None),
    ({}, error(message="Rate limit reached for requests. Please try again in 20s. Visit ...")),
    ({}, error(message="Please retry after 20 seconds.")),
    ({}, error(message="Please retry in 20.0s.")),
    ({}, "Slow down, wait 20 seconds"),
    ({}, error(code=429, status="RESOURCE_EXHAUSTED", message="Quota", details=[{"reason": "x"}, RETRY_INFO])),
    ({}, [error(code=429, message="Quota", details=[RETRY_INFO])]),
    ({}, error(message="Busy", retry_after=20)),
    ({}, error(message="Busy", metadata={"headers": {"Retry-After": "20"}})),
]


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(("headers", "body"), STATED, ids=lambda value: str(value)[:60])
async def test_a_rate_limit_is_waited_for_as_stated(
    server: OpenAIServer,
    provider: SuggestionProvider,
    waits: list[float],
    status: int,
    headers: dict[str, str],
    body: object,
) -> None:
    if status == 200 and not isinstance(body, dict | list):
        body = error(code=429, message=body or "Busy")
    elif status == 200 and isinstance(body, dict):
        body["error"].setdefault("code", 429)
    server.behave(Behaviour(status=status, headers=headers, body=body, times=6))
    assert (await provider.suggest(patient("a"))).texts == suggested("a")
    assert waits[:4] == [pytest.approx(20)] * 4
    assert all(20 <= wait < 21 for wait in waits)


def patient(*product_ids: str, seconds: float = DEADLINE) -> SuggestionRequest:
    return SuggestionRequest("seo_title", titles(*product_ids).products, patience_seconds=seconds)


async def test_a_rate_limit_without_retry_after_is_retried_with_backoff_until_the_deadline(
    server: OpenAIServer, build: Build
) -> None:
    clock = Passing()
    server.behave(Behaviour(status=429))
    with pytest.raises(AIError, match=r"as too many .*; gave up after \d\d attempts; the run's deadline comes"):
        await build(retry=clock.policy()).suggest(patient("a"))
    assert DEADLINE - 21 < clock.now <= DEADLINE
    assert server.stats().requests < 75


async def test_a_wait_beyond_the_deadline_is_not_begun(server: OpenAIServer, build: Build) -> None:
    clock = Passing()
    server.behave(Behaviour(status=429, retry_after="3600"))
    with pytest.raises(AIError, match=r"to come back in 3600 s\); the run's deadline comes before"):
        await build(retry=clock.policy()).suggest(patient("a"))
    assert (clock.now, server.stats().requests) == (0, 1)


async def test_repeated_retry_after_0_does_not_cause_a_flood_of_requests(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(status=429, retry_after="0"))
    with pytest.raises(AIError):
        await build(retry=Passing().policy()).suggest(patient("a"))
    assert server.stats().requests < 75


async def test_other_faults_are_still_given_up_after_a_few_attempts(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(status=429, times=5), Behaviour(status=500))
    with pytest.raises(AIError, match="gave up after 9 attempts"):
        await build(retry=Passing().policy()).suggest(patient("a"))


async def test_others_go_on_while_one_waits(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(status=429, retry_after="20", product_ids=["a"]))
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    provider = build(concurrency=1, retry=RetryPolicy(sleep=sleep))
    held_up = asyncio.create_task(provider.suggest(patient("a")))
    await waiting.wait()
    assert (await provider.suggest(patient("b"))).texts == suggested("b")
    held_up.cancel()


class Passing:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0

    def policy(self) -> RetryPolicy:
        return RetryPolicy(sleep=self._sleep, clock=lambda: self.now, random=lambda: 0.0)

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("headers", "body", "words", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "1m30.5s"}, None, "", 90.5),
        ({"x-ratelimit-reset-tokens": "6m0s"}, None, "", 360),
        ({"x-ratelimit-reset-tokens": "350ms"}, None, "", 0.35),
        ({"anthropic-ratelimit-requests-reset": "2015-10-21T07:28:00Z"}, None, "", 0),
        ({"x-ratelimit-reset-requests": "soon"}, None, "", None),
        ({"retry-after": "5", "x-ratelimit-reset-requests": "20s"}, None, "try again in 9s", 5),
        ({}, None, "Please try again in 7m12s.", 432),
        ({}, None, "Please try again in 1 minute and 5 seconds.", 65),
        ({}, None, "try again in 250ms", 0.25),
        ({}, None, "try again in a while", None),
        ({}, None, "try again in 20 steps", None),
        ({}, {"retryDelay": {"seconds": 3}}, "", 3),
        ({}, {"retryDelay": True}, "", None),
        ({}, {"retry_after": float("inf")}, "", None),
        ({}, {"retry_after_ms": 1500}, "", 1.5),
        ({}, None, "", None),
    ],
)
def test_a_wait_is_read_and_nonsense_is_not(
    headers: dict[str, str], body: object, words: str, seconds: float | None
) -> None:
    assert wait_of(headers, body, words) == (seconds if seconds is None else pytest.approx(seconds))


def test_a_wait_may_be_a_moment() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    for name, value in (
        ("x-ratelimit-reset", str(int(later.timestamp() * 1000))),
        ("x-ratelimit-reset", str(int(later.timestamp()))),
        ("anthropic-ratelimit-tokens-reset", later.isoformat()),
    ):
        assert wait_of({name: value}, None, "") == pytest.approx(100, abs=2)


@pytest.mark.parametrize("text", ["1" * 200_000, "try again in " * 20_000, "1m" * 100_000, "wait your " * 20_000])
def test_no_words_take_long_to_read(text: str) -> None:
    assert least_seconds(lambda: wait_of({"x-ratelimit-reset": text}, {"retryDelay": text}, text)) < 1
