"""Scenario 1: answers get lost after the work was done, and clients ask again."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from uuid import UUID

import grpc
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from tests.faults.sizes import size
from tests.support.audit import audit
from tests.support.proxy import Proxy
from tests.support.shop import DEADLINE, TITLES, Shop

CLIENTS = 50
TRIES = 10  # calls with each key, by ten clients at about the same time
KEYS = size(500, 50)
LOST = 0.3
UNLIMITED = {"RUNS_MAX_CREATES_PER_SECOND": "100000"}  # repeats count, too, and a fast machine makes more than 200

KINDS = ("create a preview", "create a draft", "retry", "preview", "apply")
CALLS = size(2_000, 500)  # of all kinds
CALLERS = 25

# A connection for each client, so that a cut takes one call with it. Nothing repeats a call that was sent but we.
OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def test_a_key_makes_one_run_however_many_answers_are_lost(start_stack: Callable[..., Any]) -> None:
    shop: Shop = await start_stack(env=UNLIMITED)
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


async def test_every_call_that_makes_a_run_makes_one_however_many_answers_are_lost(
    start_stack: Callable[..., Any],
) -> None:
    """All of them, through RunsClient, which asks again by itself, and which its caller asks again with the same
    request_id. No two calls share a derived key, and their runs end at once: no key holds a repeat."""
    shop: Shop = await start_stack(runs_replicas=2)
    await shop.stock(1)
    first = await shop.preview()  # the suggestion is there: what follows is about runs, not about AI
    ended = [
        await shop.ended((await shop.create(Run.APPLY, scope_id="old", rules_hash=f"{number}")).run)
        for number in range(CALLS // len(KINDS))
    ]
    dice = random.Random(2)
    made: dict[int, tuple[str, bool]] = {}  # the run of each call, and whether its answer said that it was new
    repeated = 0

    async def call(client: RunsClient, number: int) -> tuple[str, bool]:
        """Make one call; its kind and its values are the number's."""
        kind, project, names = KINDS[number % len(KINDS)], shop.project, {"request_id": str(UUID(int=number + 1))}
        # What is different about each call: the rules of a preview, or the hash of those that are not the draft's.
        rules, rules_hash = PlaybookRules(enabled=True, prefix=f"{number} "), f"{number:016}"
        match kind:
            case "create a preview":
                created = await client.create(project, TITLES, Run.PREVIEW_GENERATE, rules=rules, **names)
            case "create a draft":
                created = await client.create(
                    project,
                    TITLES,
                    Run.DRAFT_GENERATE,
                    scope_id=first.scope_id,
                    rules_hash=rules_hash,
                    **names,
                )
            case "retry":
                retried = await client.retry(project, ended[number // len(KINDS)].id)
                return retried.run.id, True
            case "preview":
                return (await client.preview(project, TITLES, rules=rules, **names)).run.id, True
            case _:
                applied = await client.apply(project, TITLES, scope_id=first.scope_id, rules_hash=rules_hash, **names)
                return applied.run.id, True
        return created.run.id, created.created

    async def caller(numbers: range) -> None:
        nonlocal repeated
        async with (
            Proxy(shop.stack.runs[0].target, loses_response=lambda: dice.random() < LOST) as one,
            Proxy(shop.stack.runs[1].target, loses_response=lambda: dice.random() < LOST) as other,
            RunsClient(f"ipv4:{one.target},{other.target}", token=shop.stack.token(shop.project, "OWNER")) as client,
        ):
            for number in numbers:
                while number not in made:
                    try:
                        made[number] = await call(client, number)
                    except ServiceCallError as error:  # more attempts were cut off than RunsClient makes
                        if error.code is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        repeated += 1
            cuts.append(one.cuts + other.cuts)

    cuts: list[int] = []
    async with asyncio.TaskGroup() as callers:
        for start in range(CALLERS):
            callers.create_task(caller(range(start, CALLS, CALLERS)))

    assert sum(cuts) > 0.2 * CALLS
    assert len({run_id for run_id, _ in made.values()}) == len(made) == CALLS
    assert all(new for _, new in made.values()), "each attempt gets the first answer"
    assert await audit(shop.stack, timeout=60) == CALLS + len(ended) + 1
    print(f"{CALLS} calls, {sum(cuts)} answers cut off, {repeated} calls asked again by hand, {CALLS} runs")
