"""An AI provider that means harm: redirects, bombs, echoes. The real client against a real HTTP server."""

import asyncio
import logging
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from executor_service.ai.errors import AIError
from executor_service.ai.factory import build_provider
from executor_service.ai.openai_client import ERROR_LIMIT
from executor_service.ai.provider import ProductBrief, SuggestionProvider, SuggestionRequest
from executor_service.ai.retry import RetryPolicy
from tests.support.openai_attacks import ATTACKS, TOO_LONG
from tests.support.openai_protocol import API_KEY
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.processor import without_collections

TITLE, DESCRIPTION = "Velvet Übermug QX7731", "Hand-thrown in Zwiesel, 山小屋マグカップ."
MARKERS = ("velvet", "bermug", "qx7731", "thrown", "zwiesel", "小屋", "metadata that search", API_KEY)
MUG = SuggestionRequest("seo_title", [ProductBrief("a", TITLE, f"<p>{DESCRIPTION}</p>")])
PAUSE = 0.5  # seconds of the processor that a bomb may keep the event loop from others: it would for 5 to 11

Build = Callable[..., SuggestionProvider]


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture
async def build(server: OpenAIServer, few_authorities: None) -> AsyncIterator[Build]:
    built: list[SuggestionProvider] = []

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    def build(**settings: Any) -> SuggestionProvider:
        defaults = {"base_url": server.base_url, "retry": RetryPolicy(sleep=sleep)}
        built.append(build_provider(api_key=SecretStr(API_KEY), **(defaults | settings)))
        return built[-1]

    yield build
    for provider in built:
        await provider.close()


@pytest.fixture
def provider(build: Build) -> SuggestionProvider:
    return build()


async def failure(provider: SuggestionProvider) -> AIError:
    with pytest.raises(AIError) as caught:
        await provider.suggest(MUG)
    return caught.value


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_product_texts_go_to_no_address_that_was_not_set(
    server: OpenAIServer, provider: SuggestionProvider, status: int
) -> None:
    with OpenAIServer() as other:
        target = other.base_url.replace("http://", "http://user:pass-word@") + f"/chat/completions?q={TITLE}"
        server.behave(Behaviour(status=status, headers={"location": target.replace(" ", "%20").replace("Ü", "U")}))
        error = await failure(provider)
        assert other.stats().requests == 0
        origin = other.base_url.removesuffix("/v1")
    assert error.code == "AI_PROVIDER_ERROR"
    assert f"(HTTP {status} to {origin}), which is not followed. Set OPENAI_BASE_URL to the final address" in str(error)
    assert "pass-word" not in str(error)
    assert "QX7731" not in str(error)
    assert server.stats().requests == 1  # it would not go elsewhere the next time either


@pytest.mark.parametrize("location", [None, "/v1/other", "", "http://[", "http://a b/", "//", "javascript:alert(1)"])
async def test_a_redirect_to_nowhere_is_reported_as_well(
    server: OpenAIServer, provider: SuggestionProvider, location: str | None
) -> None:
    server.behave(Behaviour(status=307, headers={} if location is None else {"location": location}))
    error = await failure(provider)
    assert error.code == "AI_PROVIDER_ERROR"
    assert "OPENAI_BASE_URL" in str(error)


async def test_no_cookie_of_the_provider_comes_back(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(headers={"set-cookie": "spy=1; Path=/"}))
    await provider.suggest(MUG)
    assert not list(provider._client._client.cookies.jar)  # type: ignore[attr-defined]


# Answers that are too much


async def longest_pause(stopped: asyncio.Event) -> float:
    """Return for how many seconds of the processor, at most, the loop turned to nothing else."""
    longest = 0.0
    while not stopped.is_set():
        before = time.thread_time()
        await asyncio.sleep(0.001)
        longest = max(longest, time.thread_time() - before)
    return longest


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - {"headers", "interim"}))
@pytest.mark.parametrize("status", [200, 500])
async def test_so_much_is_read_and_no_more(server: OpenAIServer, build: Build, attack: str, status: int) -> None:
    server.behave(Behaviour(answer=attack, status=status, times=4), Behaviour())
    provider = build(retry=RetryPolicy(attempts=1))
    stopped = asyncio.Event()
    with without_collections():
        pause = asyncio.create_task(longest_pause(stopped))
        error = await failure(provider)
        stopped.set()
        assert await pause < PAUSE
    if status == 200:
        assert error.code == "AI_INVALID_RESPONSE"
        assert ("longer than 4 MB" if attack in TOO_LONG else "not usable") in str(error)
        assert not error.retryable
    else:
        assert error.code == "AI_PROVIDER_ERROR"
        assert "HTTP 500: Internal Server Error" in str(error)


async def test_a_flood_of_headers_is_cut_off(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(answer="headers"))
    error = await failure(provider)
    assert error.code == "AI_PROVIDER_ERROR"
    assert "OPENAI_BASE_URL" in str(error)


async def test_a_flood_of_announcements_ends_with_the_time_limit(server: OpenAIServer, build: Build) -> None:
    server.behave(Behaviour(answer="interim"))
    error = await failure(build(timeout_seconds=1.0, retry=RetryPolicy(attempts=1)))
    assert error.code == "AI_TIMEOUT"


async def test_compressed_answers_are_not_requested_but_are_read(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(answer="packed"))
    assert (await provider.suggest(MUG)).texts == {"a": f"SEO title for {TITLE}"}


async def test_an_error_behind_a_page_of_padding_is_still_one(
    server: OpenAIServer, provider: SuggestionProvider
) -> None:
    server.behave(Behaviour(status=404, error_message="x" * 2 * ERROR_LIMIT))
    assert "HTTP 404: Not Found" in str(await failure(provider))


async def test_connections_are_kept_after_good_answers_and_given_up_after_bad_ones(
    server: OpenAIServer, build: Build
) -> None:
    server.behave(Behaviour(answer="long_answer", times=1))
    provider = build(retry=RetryPolicy(attempts=1))
    await failure(provider)
    for _ in range(5):
        await provider.suggest(MUG)
    (pool,) = [provider._client._client._transport._pool]  # type: ignore[attr-defined]
    assert len(pool.connections) == 1


# Texts


async def test_ids_and_texts_that_nothing_can_store(server: OpenAIServer, provider: SuggestionProvider) -> None:
    server.behave(Behaviour(texts={TITLE: "Mug\0 of \ud7ff tea"}))
    assert (await provider.suggest(MUG)).texts == {"a": "Mug of \ud7ff tea"}
    server.behave(Behaviour(texts={TITLE: "half \ud83d"}))
    assert (await provider.suggest(MUG)).texts == {"a": "half"}


# Echoes


ECHOES: list[dict[str, Any]] = [
    {"status": 400, "error_message": "Invalid prompt: $titles"},
    {"status": 400, "error_message": "Cannot parse: $user", "error_code": "invalid_prompt"},
    {"status": 404, "error_message": "No route for $system"},
    {"status": 429, "error_message": "Too many like '$titles'"},
    {"status": 401, "error_message": f"Bad key {API_KEY} for $user"},
    {"status": 500, "error_message": f"$system $user $titles {API_KEY}"},
    {"status": 503, "error_message": "x $titles"},
    {"status": 422, "error_message": "", "error_code": "QX7731"},
]


def everything_shown(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    """All that a person or the log gets to see."""
    records = [record.getMessage() for record in caplog.records]
    return "\n".join([*traceback.format_exception(error), repr(error), *records]).casefold()


@pytest.mark.parametrize("echo", ECHOES, ids=lambda echo: f"{echo['status']} {echo['error_message'][:12]}")
async def test_what_it_was_sent_is_not_repeated(
    server: OpenAIServer, provider: SuggestionProvider, caplog: pytest.LogCaptureFixture, echo: dict[str, Any]
) -> None:
    caplog.set_level(logging.INFO)
    server.behave(Behaviour(**echo))
    error = await failure(provider)
    assert f"HTTP {echo['status']}" in str(error)
    assert [marker for marker in MARKERS if marker in everything_shown(error, caplog)] == []


async def test_an_answer_that_breaks_the_protocol_is_not_repeated_either(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\n{TITLE} is no header\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    broken = await asyncio.start_server(answer, "127.0.0.1", 0, family=socket.AF_INET)
    port = broken.sockets[0].getsockname()[1]
    error = await failure(build(base_url=f"http://127.0.0.1:{port}/v1"))
    broken.close()
    assert "could not be reached (illegal header line" in str(error)
    assert [marker for marker in MARKERS if marker in everything_shown(error, caplog)] == []


@pytest.mark.parametrize(
    "message",
    [
        "The model `gpt-6-luna` does not exist or you do not have access to it",
        "This model's maximum context length is 8192 tokens, and you requested 9000",
    ],
)
async def test_what_helps_is_shown(server: OpenAIServer, provider: SuggestionProvider, message: str) -> None:
    server.behave(Behaviour(status=404, error_message=message))
    assert f"(HTTP 404: {message})" in str(await failure(provider))


# Addresses


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        ("http://gateway.internal:8000/v1", ["http://", "unencrypted"]),
        ("https://ada:pass-word@gateway.internal/v1", ["user name", "OPENAI_API_KEY"]),
        ("https://gateway.internal/v1", []),
        ("http://localhost:8000/v1", []),
        ("http://127.0.0.2/v1", []),
        ("http://[::1]:8000/v1", []),
    ],
)
async def test_an_address_that_gives_texts_away_is_warned_of(
    build: Build, caplog: pytest.LogCaptureFixture, base_url: str, words: list[str]
) -> None:
    build(base_url=base_url)
    assert bool(caplog.records) == bool(words)
    assert all(word in caplog.text for word in words)
    assert "pass-word" not in caplog.text
    assert "gateway" not in caplog.text
