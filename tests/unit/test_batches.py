import asyncio

import pytest
from playbooks.executor.v1.job_pb2 import RunEvent, RunEventBatch, RunJob
from playbooks.runs.v1.run_pb2 import Run

from servicekit.broker.batches import TOGETHER, BatchReader
from servicekit.ids import uuid7


@pytest.fixture
def reader() -> BatchReader[RunEvent]:
    return BatchReader(RunEventBatch, name=lambda event: f"run {event.run_id}")


def event(number: int = 1, **fields: str) -> RunEvent:
    return RunEvent(run_id=uuid7(), project_id="p", number=number, status=Run.RUNNING, **fields)


def body(*events: RunEvent) -> bytes:
    return RunEventBatch(events=events).SerializeToString()


async def test_items_keep_their_order_over_all_messages(reader: BatchReader[RunEvent]) -> None:
    sizes = [1, 3, 400, 2, 500, 500, 1, 1]
    events = [event(number) for number in range(1, sum(sizes) + 1)]
    rest = iter(events)
    bodies = [body(*(next(rest) for _ in range(size))) for size in sizes]
    assert sum(map(len, bodies)) > TOGETHER
    good, dead = await reader.read(bodies)
    assert (good, dead) == (events, [])


async def test_an_invalid_message_does_not_affect_messages_in_the_same_batch(
    reader: BatchReader[RunEvent],
) -> None:
    first, second, last = event(1), event(2), event(3)
    bad = event(0)
    half = body(event())[:-1]  # of which a message after it would be the rest
    good, dead = await reader.read([body(first), half, b"", body(second, bad), body(last)])
    assert good == [first, second, last]
    assert [letter.body for letter in dead] == [half, b"", body(bad)]
    assert dead[2].reason.startswith(f"run {bad.run_id}: number: ")


async def test_many_small_messages_may_have_more_items_than_one(reader: BatchReader[RunEvent]) -> None:
    small = b"\x0a\x00"  # an event without any field: not good, but many of them are few bytes
    good, dead = await reader.read([small] * 600)
    assert (good, len(dead)) == ([], 600)


async def test_others_get_the_event_loop_while_much_is_read(reader: BatchReader[RunEvent]) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await reader.read([body(*(event(n) for n in range(1, 501)))] * 100)
    counting.cancel()
    assert turns > 2


def test_a_batch_without_a_bound_is_none() -> None:
    with pytest.raises(ValueError, match="unpack"):
        BatchReader(RunJob, name=str)
