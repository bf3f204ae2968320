"""The made-up OpenAI itself: what other tests and benchmarks rely on."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from executor_service.ai.prompts import ANSWER_SCHEMA, PROMPT
from executor_service.ai.provider import ProductBrief
from tests.support.openai_server import API_KEY, Behaviour, OpenAIServer


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


def proper_request() -> dict[str, Any]:
    return {
        "model": "any",
        "messages": [
            {"role": "system", "content": PROMPT.system_message("seo_title")},
            {"role": "user", "content": PROMPT.user_message("seo_title", [ProductBrief("1", "Mug", "Article a")])},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "suggestions", "strict": True, "schema": ANSWER_SCHEMA},
        },
    }


async def call(base_url: str, path: str, body: object = None, *, key: str = API_KEY) -> tuple[int, Any]:
    """One request over a connection of its own; a body makes it a POST."""
    request = urllib.request.Request(
        base_url.removesuffix("/v1") + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
    )

    def send() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.request.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(send)


async def test_a_proper_request_gets_a_text_for_each_product(server: OpenAIServer) -> None:
    status, completion = await call(server.base_url, "/v1/chat/completions", proper_request())
    assert status == 200
    content = json.loads(completion["choices"][0]["message"]["content"])
    assert content == {"items": [{"id": "1", "text": "SEO title for Mug"}]}
    stats = server.stats()
    assert (stats.requests, stats.asked, stats.answered, stats.in_flight) == (1, {"a": 1}, {"a": 1}, 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model",), ""),
        (("messages",), []),
        (("messages", 0, "content"), " "),
        (("messages", 1, "content"), "no JSON"),
        (("messages", 1, "content"), '{"field": "seo_title", "products": []}'),
        (("response_format", "type"), "json_object"),
        (("response_format", "json_schema", "strict"), False),
        (("response_format", "json_schema", "schema"), {**ANSWER_SCHEMA, "additionalProperties": True}),
        (("response_format", "json_schema", "schema"), {**ANSWER_SCHEMA, "required": []}),
    ],
)
async def test_improper_requests_are_rejected(server: OpenAIServer, path: tuple[Any, ...], value: object) -> None:
    request = proper_request()
    *parents, last = path
    part: Any = request
    for name in parents:
        part = part[name]
    part[last] = value
    status, body = await call(server.base_url, "/v1/chat/completions", request)
    assert status == 400
    assert server.stats().rejected == [body["error"]["message"]]


async def test_a_wrong_key_and_a_wrong_path_are_rejected(server: OpenAIServer) -> None:
    assert (await call(server.base_url, "/v1/chat/completions", proper_request(), key="sk-wrong"))[0] == 401
    assert (await call(server.base_url, "/v1/models"))[0] == 404


async def test_sixty_four_keep_alive_connections_are_served_together(server: OpenAIServer) -> None:
    server.behave(Behaviour(delay_seconds=30, times=64))
    body = json.dumps(proper_request()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {API_KEY}\r\ncontent-length: {len(body)}\r\n"
    message = f"{head}content-type: application/json\r\n\r\n".encode() + body
    port = int(server.base_url.split(":")[2].removesuffix("/v1"))
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
    for _, writer in connections:
        writer.write(message)
    await server.wait_for(lambda stats: stats.in_flight == 64)
    for _, writer in connections:
        writer.close()
        await writer.wait_closed()
    await server.wait_for(lambda stats: stats.aborted == 64 and stats.in_flight == 0)
    assert server.stats().max_in_flight == 64


@pytest.fixture
def process_url() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.support.openai_server", "--api-key", "sk-other"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ready, base_url = process.stdout.readline().split()
        assert ready == "ready"
        yield base_url
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


async def test_as_a_process_it_is_steered_over_http(process_url: str) -> None:
    async def complete() -> int:
        return (await call(process_url, "/v1/chat/completions", proper_request(), key="sk-other"))[0]

    await call(process_url, "/control", [{"status": 503, "times": 1}, {"status": 429, "product_ids": ["a"]}])
    assert [await complete(), await complete(), await complete()] == [503, 429, 429]
    assert (await call(process_url, "/control", {"answer": "nonsense"}))[0] == 400
    assert (await call(process_url, "/stats"))[1]["statuses"] == {"503": 1, "429": 2}
    await call(process_url, "/reset", {})
    assert await complete() == 200
    assert (await call(process_url, "/stats"))[1]["requests"] == 1
