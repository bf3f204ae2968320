"""Scenario 14: 20,000 requests that no client would send, to every method of both services. Each is answered with a
documented code, none leaves a traceback or memory behind, and good callers do not feel it."""

import asyncio
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.descriptor import MethodDescriptor
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1 import executor_service_pb2 as executor
from playbooks.runs.v1 import runs_service_pb2 as runs

from devstack.stack import Stack
from servicekit.errors import STATUS_CODES, Reason
from tests.faults.sizes import FULL, overbooked, size, tail
from tests.support.fuzzing import Fuzzer
from tests.support.shop import Shop, refusal

REQUESTS = size(200_000, 20_000)
CALLERS = 24
SEED = 14
DEADLINE = 2.0  # seconds: watches and previews are left then
GROWTH = 150_000_000  # bytes
SLOWER = 3  # times the quiet, slow ones
MARGIN = 0.05 if FULL else 0.3  # seconds; 24 callers that send all they can take turns, and nothing else may
SERVICES = [
    runs.DESCRIPTOR.services_by_name["RunsService"],
    executor.DESCRIPTOR.services_by_name["ExecutorService"],
    catalog.DESCRIPTOR.services_by_name["CatalogService"],
]
# What our own impatience looks like; a stream that goes on is left after its first message.
LEFT = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
DOCUMENTED = {code for reason, code in STATUS_CODES.items() if reason is not Reason.INTERNAL_ERROR} | LEFT


class Attack:
    """Callers that send what a fuzzer makes, method by method."""

    def __init__(self, shop: Shop, target: Shop) -> None:
        self._shop = shop
        self._target = target
        self._calls = self._all_calls(Fuzzer(SEED, target.project))
        self.codes: Counter[tuple[str, str]] = Counter()
        self.wrong: list[tuple[str, bytes, str]] = []

    def _all_calls(self, fuzzer: Fuzzer) -> Iterator[tuple[MethodDescriptor, bytes]]:
        methods = [method for service in SERVICES for method in service.methods]
        bodies = {method.full_name: fuzzer.requests(method.input_type) for method in methods}
        for method in itertools.islice(itertools.cycle(methods), REQUESTS):
            yield method, next(bodies[method.full_name])

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._send_all(number))

    async def _send_all(self, number: int) -> None:
        # Who may call the services' internal methods has the services' secret; the others are users.
        users = [self._target.auth(user=f"fuzzer-{number}"), self._target.auth("SERVICE", "*", f"fuzzer-{number}")]
        for method, body in self._calls:
            is_internal = method.name in ("ExecuteRun", "ReconcileRuns", "CancelRuns")
            metadata = users[is_internal]["metadata"]
            await self._send(method, body, metadata)

    async def _send(self, method: MethodDescriptor, body: bytes, metadata: Any) -> None:
        channels = self._shop.channels
        channel = channels.runs[0] if method.containing_service is SERVICES[0] else channels.executors[0]
        path = f"/{method.containing_service.full_name}/{method.name}"
        call = channel.unary_stream(path)(body, metadata=metadata, timeout=DEADLINE)
        code = "OK"
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            if error.code() not in DOCUMENTED:
                self.wrong.append((path, body, f"{error.code()} {error.details()}"))
            elif error.code() not in LEFT and refusal(error).code is not STATUS_CODES.get(refusal(error).reason):  # type: ignore[call-overload]
                self.wrong.append((path, body, f"{error.code()} {refusal(error).reason}"))
        finally:
            call.cancel()
        self.codes[method.name, code] += 1


def memory(stack: Stack) -> int:
    return sum(psutil.Process(one.pid).memory_info().rss for one in (stack.runs[0], stack.executors[0]))


@pytest.mark.alone
async def test_no_request_gets_an_undocumented_answer_or_harms_others(start_stack: Callable[..., Any]) -> None:
    env = {"AI_PROVIDER": "offline", "RUNS_MAX_CREATES_PER_SECOND": "100000", "RUNS_MAX_QUEUED": "1000000"}
    shop: Shop = await start_stack(env=env)
    target = Shop(shop.stack, shop.channels)
    await target.open()
    await target.stock(20)

    async def slow(while_running: Callable[[int], bool]) -> float:
        seconds = []
        while while_running(len(seconds)):
            started = time.monotonic()
            await shop.runs().ListRuns(runs.ListRunsRequest(project_id=shop.project), **shop.auth())
            seconds.append(time.monotonic() - started)
            await asyncio.sleep(0.02)
        return tail(seconds)

    quiet = await slow(lambda count: count < 200)
    before = memory(shop.stack)
    attack = Attack(shop, target)
    attacking = asyncio.create_task(attack.run())
    loud = await slow(lambda _: not attacking.done())
    await attacking
    growth = memory(shop.stack) - before

    by_code = Counter(code for (_, code), number in attack.codes.items() for _ in range(number))
    print(f"{by_code}; slow ones {quiet:.3f} s, {loud:.3f} s beside it; grew by {growth / 1e6:.0f} MB")
    assert attack.wrong == []
    assert attack.codes.total() == REQUESTS
    assert by_code["OK"] > REQUESTS / 50, "some requests get through to the stores"
    for service in (shop.stack.runs[0], shop.stack.executors[0]):
        log = service.log.read_text()
        assert "Traceback" not in log, re.findall(r"[^\n]*Traceback[^\n]{0,3000}", log)[:2]
    assert growth < GROWTH
    assert loud < SLOWER * overbooked() * quiet + MARGIN
