"""Event streams while the service behind them dies, stands still and comes back: nothing is lost or comes twice."""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import httpx2
from playbooks.runs.v1.run_pb2 import Run, RunMeta

from tests.faults.sizes import size
from tests.support.http import watching
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.stopping import restarted, stopped
from tests.support.waiting import eventually

WATCHERS = size(200, 20)
PRODUCTS = 40


class Page:
    """What a page does: it watches one run, and connects again where it was, until it is told that there is no more."""

    def __init__(self, http: httpx2.AsyncClient, run: Run) -> None:
        self._http = http
        self._path = f"runs/{run.id}:watch"
        self.ids: list[int] = []
        self.last: Any = None
        self.connections = 0

    async def follow(self) -> None:
        while True:
            try:
                async with watching(self._http, self._path, str(self.ids[-1] if self.ids else 0)) as stream:
                    if stream.response.status_code == httpx2.codes.NO_CONTENT:
                        return
                    assert stream.response.status_code in (200, 503), await stream.response.aread()
                    self.connections += 1
                    for event in await stream.rest():
                        if event.id:
                            self.ids.append(int(event.id))
                            self.last = event.json
            except httpx2.TransportError:
                pass  # cut in the middle
            await asyncio.sleep(0.2)  # an EventSource waits, too


async def test_pages_miss_nothing_while_the_runs_service_restarts(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    shop = await start_stack(http=True)
    await shop.stock(PRODUCTS)
    openai.behave(Behaviour(delay_seconds=0.5))
    preview = await shop.preview()
    run = (await shop.create(Run.DRAFT_GENERATE, scope_id=preview.scope_id, rules_hash=preview.rules_hash)).run
    service = shop.stack.runs[0]

    async with shop.http("VIEWER") as http:
        pages = [Page(http, run) for _ in range(WATCHERS)]
        following = [asyncio.create_task(page.follow()) for page in pages]
        await eventually(lambda: all(page.ids for page in pages))
        service.kill()
        service.start()
        await asyncio.to_thread(service.wait_ready)
        await stopped(service, grace=5.0)
        await restarted(service)
        async with asyncio.timeout(60):
            await asyncio.gather(*following)
    for page in pages:
        assert page.ids == list(range(1, page.ids[-1] + 1))
        assert page.last["status"] == "SUCCEEDED"
        assert page.connections > 1


async def test_while_the_runs_service_stands_still_calls_end_in_time_and_streams_stay(
    start_stack: Callable[..., Any], openai: OpenAIServer
) -> None:
    shop = await start_stack(http=True, gateway_env={"GATEWAY_CALL_SECONDS": "2"})
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    run = (await shop.create(Run.PREVIEW_GENERATE, meta=RunMeta(sample_size=1))).run
    async with shop.http() as http, watching(http, f"runs/{run.id}:watch") as stream:
        await stream.next()
        assert await _is_answered(http, run)
        shop.stack.runs[0].send_signal(signal.SIGSTOP)
        answer = await http.get(f"runs/{run.id}")
        assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
        shop.stack.runs[0].send_signal(signal.SIGCONT)
        await eventually(lambda: _is_answered(http, run))
        await http.post(f"runs/{run.id}:cancel")
        assert (await stream.rest())[-1].json["status"] == "CANCELLED"
    assert "Traceback" not in shop.stack.gateway.log.read_text()


async def _is_answered(http: httpx2.AsyncClient, run: Run) -> bool:
    return (await http.get(f"runs/{run.id}")).status_code == httpx2.codes.OK


async def test_the_gateway_stops_at_once_with_streams_open(start_stack: Callable[..., Any]) -> None:
    shop = await start_stack(http=True)
    shop.stack.executors[0].kill()  # so that the run waits
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    gateway = shop.stack.gateway
    async with shop.http() as http, watching(http, f"runs/{run.id}:watch") as stream:
        await stream.next()
        gateway.send_signal(signal.SIGTERM)
        assert await stream.rest() == []  # the end is whole
        await eventually(lambda: gateway.died, timeout=4.0)
    assert "ended with exit code 0;" in gateway.death_notice()
    assert "Traceback" not in gateway.log.read_text()
