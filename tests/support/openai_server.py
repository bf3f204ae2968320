"""A server that speaks OpenAI's chat completions protocol, checks what it is asked and counts it.

In a test:

    with OpenAIServer() as server:                # its own thread: a blocked test does not block it
        server.behave(Behaviour(status=429, times=2), Behaviour(answer="missing", product_ids=("p7",)))
        ...                                       # OPENAI_BASE_URL=server.base_url, OPENAI_API_KEY=server.api_key
        assert server.stats().requests == 3

As a process: `python -m tests.support.openai_server --port N [--delay-seconds 0.05]` prints `ready <base url>`.
From any process: `POST /control` (one behaviour or a list of them, as JSON), `POST /reset`, `GET /stats`.
"""

import argparse
import asyncio
import contextlib
import copy
import gzip
import json
import selectors
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Self, TypeVar

from tests.support.openai_attacks import ATTACKS
from tests.support.openai_protocol import (
    API_KEY,
    Asked,
    Behaviour,
    Rejected,
    Stats,
    completion_of,
    error_body,
    error_message,
    read_request,
)

COMPLETIONS = "/v1/chat/completions"

T = TypeVar("T")


class OpenAIServer:
    """The server in a thread of its own, with its switches and counters."""

    def __init__(self, *, port: int = 0, api_key: str = API_KEY, delay_seconds: float = 0.0) -> None:
        self.api_key = api_key
        self._port = port
        self._state = _State(api_key, Behaviour(delay_seconds=delay_seconds))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-server", daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which an executor asks this server."""
        return {
            "AI_PROVIDER": "openai",
            "OPENAI_API_KEY": self.api_key,
            "OPENAI_BASE_URL": self.base_url,
            "AI_MODEL": "test-model",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(_listen(self._state, self._port), self._loop).result()
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextlib.contextmanager
    def refusing_connections(self) -> Iterator[None]:
        """Within the block nothing listens at the server's port."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        try:
            yield
        finally:
            self._server = asyncio.run_coroutine_threadsafe(_listen(self._state, self._port), self._loop).result()

    def behave(self, *behaviours: Behaviour) -> None:
        """From now on the first behaviour that applies to a request decides. Where none does, the answer is good."""
        self._call(lambda: self._state.behave(behaviours))

    def reset(self) -> None:
        """Forget all behaviours and counts."""
        self._call(self._state.reset)

    def stats(self) -> Stats:
        return self._call(self._state.snapshot)

    async def wait_for(self, condition: Callable[[Stats], bool], timeout_seconds: float = 30.0) -> None:
        """Return as soon as the counts fulfil the condition."""
        waiting = asyncio.run_coroutine_threadsafe(self._state.wait_for(condition), self._loop)
        async with asyncio.timeout(timeout_seconds):
            await asyncio.wrap_future(waiting)

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _close(self) -> None:
        self._server.close()
        for _ in range(3):
            await asyncio.sleep(0)  # until those that were just being accepted are among the connections
        self._state.close_connections()


class _State:
    """Behaviours and counts; touched by the server's own thread only."""

    def __init__(self, api_key: str, default: Behaviour) -> None:
        self.api_key = api_key
        self._default = default
        self.connections: set[_Connection] = set()
        self._behaviours: list[Behaviour] = []
        self._stats = Stats()
        self._waiting: list[tuple[Callable[[Stats], bool], asyncio.Future[None]]] = []

    def behave(self, behaviours: Sequence[Behaviour]) -> None:
        self._behaviours = list(behaviours)

    def reset(self) -> None:
        self._behaviours = []
        self._stats = Stats(in_flight=self._stats.in_flight, max_in_flight=self._stats.in_flight)

    def snapshot(self) -> Stats:
        return copy.deepcopy(self._stats)

    def close_connections(self) -> None:
        for connection in list(self.connections):
            connection.abort()

    async def wait_for(self, condition: Callable[[Stats], bool]) -> None:
        if not condition(self._stats):
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((condition, future))
            await future

    def pick(self, product_ids: Sequence[str]) -> Behaviour:
        for number, behaviour in enumerate(self._behaviours):
            if behaviour.applies_to(product_ids):
                if behaviour.times is not None:
                    self._behaviours[number] = replace(behaviour, times=behaviour.times - 1)
                return behaviour
        return self._default

    def began(self) -> None:
        stats = self._stats
        stats.requests += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)

    def asked(self, product_ids: list[str], tier: str) -> None:
        self._stats.batches.append(product_ids)
        self._stats.asked.update(Counter(product_ids))
        self._stats.tiers[tier] += 1
        self._notify()

    def ended(self, status: int, given: Sequence[str] = (), rejection: str | None = None) -> None:
        self._stats.in_flight -= 1
        self._stats.statuses[str(status)] += 1
        self._stats.answered.update(Counter(given))
        if rejection:
            self._stats.rejected.append(rejection)
        self._notify()

    def aborted(self) -> None:
        self._stats.in_flight -= 1
        self._stats.aborted += 1
        self._notify()

    def _notify(self) -> None:
        for waiting in list(self._waiting):
            condition, future = waiting
            if condition(self._stats):
                self._waiting.remove(waiting)
                if not future.done():
                    future.set_result(None)


class _Connection(asyncio.Protocol):
    """One keep-alive connection; a protocol instead of streams, because it must be cheap."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self._buffer = bytearray()
        self._pending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._state.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        if self._pending:
            self._pending.cancel()
            self._pending = None
            self._state.aborted()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, _ = self._buffer.partition(b"\r\n\r\n")
        if self._pending or not separator:
            return
        request_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        end = len(head) + len(separator) + int(headers.get("content-length", 0))
        if len(self._buffer) < end:
            return
        arrived = asyncio.get_running_loop().time()
        body = bytes(self._buffer[len(head) + len(separator) : end])
        del self._buffer[:end]
        method, path, _ = request_line.split(" ")
        if path == COMPLETIONS:
            self._complete(arrived, method, headers, body)
        else:
            self._administer(f"{method} {path}", body)

    def _administer(self, route: str, body: bytes) -> None:
        match route:
            case "POST /control":
                try:
                    wishes = json.loads(body)
                    self._state.behave([Behaviour(**w) for w in (wishes if isinstance(wishes, list) else [wishes])])
                except (ValueError, TypeError) as error:
                    self._send(400, error_body(str(error)))
                    return
            case "POST /reset":
                self._state.reset()
            case "GET /stats":
                pass
            case _:
                self._send(404, error_body(f"Unknown request URL: {route}."))
                return
        self._send(200, vars(self._state.snapshot()))

    def _complete(self, arrived: float, method: str, headers: dict[str, str], body: bytes) -> None:
        self._state.began()
        try:
            asked = read_request(method, headers, body, self._state.api_key)
        except Rejected as rejection:
            self._state.ended(rejection.status, rejection=str(rejection))
            self._send(rejection.status, error_body(str(rejection), rejection.code))
            return
        self._state.asked(asked.names, asked.tier)
        behaviour = self._state.pick(asked.names)
        completion, given = completion_of(behaviour, asked)
        answer = partial(self._answer, behaviour, asked, json.dumps(completion).encode(), given)
        if behaviour.delay_seconds:
            # From the arrival on, and worked out before: what this server costs is not part of what it takes.
            self._pending = asyncio.get_running_loop().call_at(arrived + behaviour.delay_seconds, answer)
        else:
            answer()

    def _answer(self, behaviour: Behaviour, asked: Asked, body: bytes, given: Sequence[str]) -> None:
        self._pending = None
        if behaviour.answer == "hang_up":
            self._state.ended(0)
            self._transport.close()
        elif behaviour.answer in ATTACKS:
            self._state.ended(behaviour.status)
            self._transport.write(ATTACKS[behaviour.answer](behaviour.status, body))
        elif behaviour.body is not None:
            self._state.ended(behaviour.status)
            said = behaviour.body if isinstance(behaviour.body, str) else json.dumps(behaviour.body)
            self._send(behaviour.status, said.encode(), dict(behaviour.headers))
        elif behaviour.status != HTTPStatus.OK:
            self._state.ended(behaviour.status)
            message = error_message(behaviour, asked, f"This is a made-up {HTTPStatus(behaviour.status).phrase}.")
            retry_after = {"retry-after": behaviour.retry_after} if behaviour.retry_after else {}
            headers = {**behaviour.headers, **retry_after}
            self._send(behaviour.status, error_body(message, behaviour.error_code), headers)
        elif behaviour.answer == "packed":
            self._state.ended(200, given)
            self._send(200, gzip.compress(body), {"content-encoding": "gzip"})
        elif behaviour.answer == "broken_body":
            self._state.ended(200)
            self._send(200, b'{"id": "chatcmpl-')
        else:
            self._state.ended(200, given)
            self._send(200, body, dict(behaviour.headers))

    def _send(self, status: int, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            "content-type: application/json",
            f"content-length: {len(payload)}",
            "x-request-id: req_made_up",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)


async def _listen(state: _State, port: int) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(lambda: _Connection(state), "127.0.0.1", port, backlog=512)


async def _serve(port: int, api_key: str, delay_seconds: float) -> None:
    state = _State(api_key, Behaviour(delay_seconds=delay_seconds))
    server = await _listen(state, port)
    stopped = asyncio.Event()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(stop_signal, stopped.set)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A made-up OpenAI.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--delay-seconds", type=float, default=0.0, help="before each answer")
    arguments = parser.parse_args()
    # epoll's timers are whole milliseconds, rounded up: a delay of 50 would take 51.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(_serve(arguments.port, arguments.api_key, arguments.delay_seconds))


if __name__ == "__main__":
    main()
