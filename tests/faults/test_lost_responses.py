"""Scenario 1: answers get lost after the work was done, and clients ask again."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import grpc
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.proxy import Proxy
from tests.support.shop import DEADLINE, TITLES, Shop

CLIENTS = 50
TRIES = 10  # calls with each key, by ten clients at about the same time
KEYS = size(500, 50)
LOST = 0.3

# A connection for each client, so that a cut takes one call with it. Nothing repeats a call that was sent but we.
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def test_a_key_makes_one_run_however_many_answers_are_lost(start_stack: Callable[..., Any]) -> None:
    shop: Shop = await start_stack()
    await shop.stock(3)
    await shop.preview()  # the suggestions are there: what follows is about runs, not about AI
    dice = random.Random(1)
    answers: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    lost = 0

    async def client(proxy: Proxy, keys: list[str]) -> None:
        nonlocal lost
        metadata = shop.auth()["metadata"]
        async with grpc.aio.insecure_channel(proxy.target, options=OPTIONS) as channel:
            stub = RunsServiceStub(channel)
            for key in keys:
                request = CreateRunRequest(
                    project_id=shop.project, playbook_id=TITLES, run_type=Run.PREVIEW_GENERATE, idempotency_key=key
                )
                try:
                    answer = await stub.CreateRun(request, metadata=metadata, timeout=DEADLINE, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    lost += 1
                else:
                    answers[key].append((answer.run.id, answer.created))

    async with Proxy(shop.stack.runs_target, loses_response=lambda: dice.random() < LOST) as proxy:
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                group = number // TRIES
                clients.create_task(client(proxy, [f"key-{key}" for key in range(group, KEYS, CLIENTS // TRIES)]))
        cuts = proxy.cuts  # at its end the proxy cuts what the clients have closed and it has not noticed yet

    calls = KEYS * TRIES
    assert 0.2 * calls < cuts < 0.4 * calls
    # A client that asks on at once may do so over the connection that is just being closed, and loses that call too.
    assert cuts <= lost < 0.4 * calls
    assert sum(map(len, answers.values())) == calls - lost
    for key, given_answers in answers.items():
        assert len({run_id for run_id, _ in given_answers}) == 1, f"{key} made more than one run: {given_answers}"
        assert sum(created for _, created in given_answers) <= 1, f"{key} was created more than once: {given_answers}"
    assert len({given_answers[0][0] for given_answers in answers.values()}) == len(answers) == KEYS
    assert await audit(shop.stack, timeout=60) == KEYS + 1
    print(f"{calls} calls, {lost} answers lost, {KEYS} keys, {KEYS} runs")
