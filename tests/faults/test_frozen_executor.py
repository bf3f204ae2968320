"""Scenario 6: an executor stands still for longer than its lease. Another one finishes its run; when it wakes up,
nothing that it still does has any effect."""

import asyncio
import signal
import time
from dataclasses import dataclass

import psutil
import pytest
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import PreviewPlaybookRequest

from devstack.services import Service
from runs_service.executor_client import CANCEL_TIMEOUT, READ_TIMEOUTS
from servicekit.failpoints import VARIABLE, FailPoint
from servicekit.postgres.server_settings import IDLE_TIMEOUT
from servicekit.rpc.channel import PING_INTERVAL, PING_TIMEOUT
from tests.faults.sizes import FULL, size
from tests.faults.test_kill_anywhere import AT_ONCE, BATCH, PRODUCTS, answers, asked, prepared, restart, suggestions
from tests.support.audit import audit
from tests.support.executions import traces
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.shop import TITLES, NewShop, Shop, log_lines
from tests.support.waiting import eventually

LEASE = 1.0  # seconds
LOST = 2 + READ_TIMEOUTS[0]  # seconds until a run whose message was lost is found, having been asked about twice
LOADED = 2.0  # the machine may be busy with other things: a takeover may take so many times as long

# What a woken executor logs of a run it lost: the database refused its write, or a renewal, or ended its transaction.
NOTICES = ("discarding its result", "stopping attempt", "is interrupted")


@dataclass(frozen=True)
class Freeze:
    """An executor stands still at `point`, the `times`-th time it gets there, in a run of `run_type`."""

    point: FailPoint
    run_type: Run.Type.ValueType
    times: int = 1
    transaction: bool = False  # inside one, with rows locked

    def __str__(self) -> str:
        return f"{self.point}:{self.times}:SIGSTOP"


FREEZES = [
    Freeze(FailPoint.EXECUTOR_AFTER_AI_REPLY, Run.DRAFT_GENERATE, times=4),
    Freeze(FailPoint.EXECUTOR_IN_DRAFT, Run.DRAFT_GENERATE, transaction=True),
    *(
        [
            Freeze(FailPoint.EXECUTOR_AFTER_CLAIM, Run.APPLY),
            Freeze(FailPoint.EXECUTOR_BEFORE_AI_REQUEST, Run.DRAFT_GENERATE, times=3),
            # All suggestions are here, the last of them not stored: what follows is the last transaction.
            Freeze(FailPoint.EXECUTOR_AFTER_AI_REPLY, Run.DRAFT_GENERATE, times=PRODUCTS // BATCH),
            Freeze(FailPoint.EXECUTOR_BEFORE_COMMIT, Run.APPLY, transaction=True),
        ]
        if FULL
        else []
    ),
]


STACK = {
    "executor_replicas": 2,
    "env": {
        "EXECUTOR_LEASE_SECONDS": str(LEASE),
        "RUNS_RECONCILE_SECONDS": "1",
        "AI_BATCH_SIZE": str(BATCH),
        "AI_CONCURRENCY": str(AT_ONCE),
    },
}


@pytest.mark.parametrize("freeze", FREEZES, ids=str)
async def test_a_run_is_finished_by_another_executor_while_one_stands_still(
    freeze: Freeze, new_shop: NewShop, openai: OpenAIServer
) -> None:
    shop = new_shop()
    frozen, other = shop.stack.executors
    other.stop()  # nobody else may take the run
    await eventually(lambda: answers(shop), timeout=30)
    await shop.stock(PRODUCTS)
    request = await prepared(shop, freeze.run_type)
    stored = suggestions(shop)
    restart(frozen, {VARIABLE: str(freeze)})
    await eventually(lambda: answers(shop), timeout=30)
    openai.reset()
    openai.behave(Behaviour(delay_seconds=0.05))
    run = (await shop.runs().CreateRun(request, **shop.auth())).run

    await eventually(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED, timeout=20)
    await openai.wait_for(lambda stats: stats.in_flight == 0)  # what it sent is answered, to nobody
    in_flight = sum(asked(shop, openai).values()) - (suggestions(shop) - stored)
    await asyncio.to_thread(start, other)
    back = time.monotonic()
    run = await shop.ended(run)

    patience = LEASE + 10 + (IDLE_TIMEOUT / 1000 if freeze.transaction else 0)
    assert time.monotonic() - back < patience * LOADED
    assert (run.status, run.attempt) == (Run.SUCCEEDED, 2)
    finished = traces(shop)
    log_length = len(frozen.log.read_text())

    frozen.send_signal(signal.SIGCONT)
    await eventually(lambda: gave_up(frozen, run, since=log_length), timeout=20)
    assert traces(shop) == finished
    # Asked for again is what was in flight, about to be sent, or answered and not stored yet. Nothing else is.
    times_asked = asked(shop, openai)
    about_to = BATCH if freeze.point is FailPoint.EXECUTOR_BEFORE_AI_REQUEST else 0
    assert in_flight <= sum(times_asked.values()) - len(times_asked) <= in_flight + about_to <= BATCH * (AT_ONCE + 1)
    assert set(times_asked.values()) <= {1, 2}
    assert await shop.ai_used_today() == suggestions(shop)
    # It goes on with other work.
    await asyncio.to_thread(other.stop)
    await shop.put(id="one-more", title="One more")
    assert (await shop.preview()).status == Run.SUCCEEDED
    await audit(shop.stack, unacknowledged=len(FREEZES))


async def test_a_cancel_takes_effect_while_another_executor_stands_still(
    new_shop: NewShop, openai: OpenAIServer
) -> None:
    """runs_service asks both in turn: the one that does not answer delays it, by one time limit."""
    shop = await both_started(new_shop)
    await shop.stock(1)
    openai.behave(Behaviour(delay_seconds=60))
    frozen = None
    try:
        for number in range(size(10, 3)):
            run = (await shop.create(Run.PREVIEW_GENERATE, idempotency_key=str(number))).run
            await eventually(lambda: worker(shop, run))  # noqa: B023
            if frozen is None:
                (frozen,) = (executor for executor in shop.stack.executors if executor is not worker(shop, run))
                frozen.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            await shop.cancel(run.id)
            ended = await shop.ended(run, timeout=10)
            assert ended.status == Run.CANCELLED
            assert time.monotonic() - began < 2 * CANCEL_TIMEOUT * LOADED
    finally:
        assert frozen is not None
        frozen.send_signal(signal.SIGCONT)
    await audit(shop.stack, unacknowledged=len(FREEZES))


async def test_previews_are_answered_while_another_executor_stands_still(
    new_shop: NewShop,
) -> None:
    """It may take one message with it; a question is asked again; and found out, it is not asked any more."""
    shop = await both_started(new_shop)
    _, frozen = shop.stack.executors  # the shop itself asks the first
    started = len(frozen.log.read_text())
    await shop.stock(PRODUCTS)

    async def preview() -> None:
        request = PreviewPlaybookRequest(project_id=shop.project, playbook_id=TITLES)
        answer = await shop.runs().PreviewPlaybook(request, **shop.auth())
        assert answer.draft.id == answer.run.draft_id != ""

    async def in_turn() -> bool:
        await preview()
        return "ExecutorService/GetDraft OK" in frozen.log.read_text()[started:]

    async def asked_once() -> bool:
        """Whether as many previews as find both executors in turn have all been answered at once."""
        began = time.monotonic()
        for _ in range(4):
            await preview()
        return time.monotonic() - began < READ_TIMEOUTS[0]

    await eventually(in_turn, timeout=30)
    frozen.send_signal(signal.SIGSTOP)
    try:
        await preview()
        await eventually(asked_once, timeout=(LOST + PING_INTERVAL + PING_TIMEOUT) * LOADED)
    finally:
        frozen.send_signal(signal.SIGCONT)
    await audit(shop.stack, unacknowledged=len(FREEZES))


async def both_started(new_shop: NewShop) -> Shop:
    """Start both executors anew; return a shop with nothing in it."""
    shop = new_shop()
    for executor in shop.stack.executors:
        await asyncio.to_thread(restart, executor)
    await eventually(lambda: answers(shop), timeout=30)
    return shop


def worker(shop: Shop, run: Run) -> Service | None:
    """Return the executor that works on a run."""
    return next((one for one in shop.stack.executors if log_lines(one.log, f"Processing run {run.id}")), None)


def start(service: Service) -> None:
    service.start()
    service.wait_ready()


def gave_up(service: Service, run: Run, *, since: int) -> bool:
    """Whether an executor has said, after so many characters of its log, that it lost a run."""
    lines = [line for line in service.log.read_text()[since:].splitlines() if run.id in line]
    return any(notice in line for line in lines for notice in NOTICES)
