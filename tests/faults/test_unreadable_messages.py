"""Messages that nobody can read, and those of a newer version, on the queues of running services: they are kept where
they belong, and nobody notices."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch, RunJob, RunJobBatch
from playbooks.runs.v1.run_pb2 import Run

from devstack.stack import Stack, StackOptions
from servicekit.broker import REASON_HEADER, VERSION_HEADER, MessageSigner
from tests.support.audit import audit
from tests.support.broker import delete_queues, publish_raw, take_all
from tests.support.shop import Channels, Shop
from tests.support.waiting import eventually

GARBAGE = b"\xff\xfe no message at all"
UNSIGNED = b"anybody's"
NEWER = b"what only version 2 understands"


@pytest.fixture(params=["valkey", "rabbitmq"])
def stack(
    request: pytest.FixtureRequest, stack_folder: Callable[[], Path], stack_env: dict[str, str]
) -> Iterator[Stack]:
    prefix = f"test-{uuid4().hex[:12]}" if request.param == "rabbitmq" else "playbook-runs"
    env = stack_env | {"BROKER_QUEUE_PREFIX": prefix}
    if request.param == "valkey":
        with Stack(StackOptions(data_dir=stack_folder(), durable=False, env=env)) as stack:
            yield stack
        return
    env["BROKER_URL"] = url = request.getfixturevalue("amqp_url")
    try:
        with Stack(StackOptions(data_dir=stack_folder(), durable=False, broker=False, env=env)) as stack:
            yield stack
    finally:
        names = [f"{prefix}.{kind}" for kind in ("jobs", "events")]
        delete_queues(url, *(f"{name}{suffix}" for name in names for suffix in ("", ".dead", ".v2")))


async def test_runs_go_on_while_messages_that_cannot_be_read_are_put_aside(stack: Stack) -> None:
    url, prefix = stack.runs[0].env["BROKER_URL"], stack.runs[0].env["BROKER_QUEUE_PREFIX"]
    jobs, events = f"{prefix}.jobs", f"{prefix}.events"
    strange_job = RunJob(run_id=str(uuid4()), project_id="p", playbook_id="nonsense", run_type=Run.APPLY)
    strange_event = RunEvent(run_id="no-id", number=1, status=Run.RUNNING)
    unreadable = {
        jobs: {GARBAGE, RunJobBatch(jobs=[strange_job]).SerializeToString()},
        events: {GARBAGE, RunEventBatch(events=[strange_event]).SerializeToString()},
    }
    signer = MessageSigner([stack.secrets.jwt_secret])
    channels = Channels.to(stack)
    shop = Shop(stack, channels)
    await shop.open()
    await shop.stock(3)
    await shop.preview()  # the suggestions are there: what follows is about messages, not about AI
    pids = [service.pid for service in (*stack.runs, *stack.executors)]

    created = [(await shop.create(Run.PREVIEW_GENERATE, idempotency_key=f"before {n}")).run for n in range(5)]
    for queue, bodies in unreadable.items():
        for body in bodies:
            await asyncio.to_thread(publish_raw, url, queue, body, signer.headers(queue, 1, body))
        await asyncio.to_thread(publish_raw, url, queue, UNSIGNED, {VERSION_HEADER: 1})
        await asyncio.to_thread(publish_raw, url, queue, NEWER, signer.headers(queue, 2, NEWER))
    created += [(await shop.create(Run.PREVIEW_GENERATE, idempotency_key=f"after {n}")).run for n in range(5)]
    assert {(await shop.ended(run)).status for run in created} == {Run.SUCCEEDED}

    for queue, bodies in unreadable.items():
        dead: list[tuple[bytes, dict[str, object]]] = []
        newer: list[tuple[bytes, dict[str, object]]] = []

        async def put_aside() -> bool:
            dead.extend(await asyncio.to_thread(take_all, url, f"{queue}.dead"))  # noqa: B023
            newer.extend(await asyncio.to_thread(take_all, url, f"{queue}.v2"))  # noqa: B023
            return len(dead) > len(bodies) and bool(newer)  # noqa: B023

        await eventually(put_aside, timeout=20)
        assert {body for body, _ in dead} == bodies | {UNSIGNED}
        assert all(headers[REASON_HEADER] for _, headers in dead)
        assert [(body, headers[VERSION_HEADER]) for body, headers in newer] == [(NEWER, 2)]
    assert [service.pid for service in (*stack.runs, *stack.executors)] == pids
    assert all(service.alive for service in (*stack.runs, *stack.executors))
    await audit(stack)
    await channels.close()
