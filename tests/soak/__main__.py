"""`make soak`: a load with watchers, a fault every 20 s, then the audit and a table for docs/reliability.md.

Environment: SOAK_SECONDS (600), SOAK_RATE (30 runs a second), SOAK_WATCHERS (100), SOAK_FAULT_SECONDS (20 between the
beginnings of two faults), SOAK_SEED (decides on the faults; one that is printed if it is left out).
"""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import psutil
import psycopg

from devstack.stack import Stack, StackOptions
from tests.soak.faults import LEASE, Faults, every
from tests.soak.table import Memory, Outcome, table
from tests.soak.workload import EVERY, Workload
from tests.support.audit import audit
from tests.support.load import Load
from tests.support.openai_protocol import Behaviour
from tests.support.openai_server import OpenAIServer
from tests.support.proxy import Proxy
from tests.support.shop import Channels, Shop

WATCHERS_A_RUN = 3
WARM_UP = 5.0  # seconds of load before memory is looked at for the first time
AI_DELAY = 0.05  # seconds
HELD = 1_000  # messages that the broker keeps for a minute after their consumer was lost


def setting(name: str, default: int) -> int:
    return int(os.environ.get(f"SOAK_{name}") or default)


async def soak(stack: Stack, ai: OpenAIServer, seconds: float, seed: int) -> Outcome:
    """Load the stack and break it for so many seconds; return what was seen, once everything has ended and is right."""
    rate = setting("RATE", 30)
    async with AsyncExitStack() as cleanup:
        channels = Channels.to(stack)
        cleanup.push_async_callback(channels.close)
        workload = await Workload.prepared(Shop(stack, channels), lives=int(seconds * rate / (EVERY + 2)))
        prepared = await audit(stack)
        proxies = [await cleanup.enter_async_context(Proxy(replica.target)) for replica in stack.runs]
        faults = Faults(stack, proxies, seed=seed)
        load = await cleanup.enter_async_context(
            Load(
                stack,
                workload.request,
                watchers=setting("WATCHERS", 100),
                watchers_a_run=WATCHERS_A_RUN,
                watch_targets=[proxy.target for proxy in proxies],
                on_end=workload.ended,
            )
        )
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            group.create_task(load.create(rate=rate))
            await asyncio.sleep(WARM_UP)
            memory = {service.name: Memory(resident(service.pid)) for service in (*stack.runs, *stack.executors)}
            async for fault in every(setting("FAULT_SECONDS", 20), faults, began + seconds):
                print(f"{fault.began - began:6.1f} s: {fault.name} ({fault.ended - fault.began:.1f} s)", flush=True)
            await asyncio.sleep(began + seconds - time.monotonic())
            load.stop()
        stopped = time.monotonic()
        await load.all_ended(timeout=120)
        settled = time.monotonic()
        runs = await audit(stack, timeout=120, unacknowledged=HELD)
        assert runs == prepared + load.started == prepared + len(load.ends), (
            f"{runs} runs are stored: {prepared} from before, {load.started} asked for, {len(load.ends)} seen ending"
        )
        for service in (*stack.runs, *stack.executors):
            memory[service.name].end = resident(service.pid)
            memory[service.name].up_seconds = time.time() - psutil.Process(service.pid).create_time()
        texts = ai.stats().answered
        return Outcome(
            began=began,
            stopped=stopped,
            settled=settled,
            seed=seed,
            rate=rate,
            watchers=setting("WATCHERS", 100),
            load=load,
            ends=workload.ends,
            faults=faults.injected,
            memory=memory,
            ai_requests=ai.stats().requests,
            ai_texts=sum(texts.values()),
            ai_repeated=sum(times - 1 for times in texts.values()),
            ai_used=used(stack),
        )


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    return psutil.Process(pid).memory_info().rss / 1e6


def used(stack: Stack) -> int:
    """Return how many suggestions all projects are charged for."""
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        row = database.execute("SELECT sum(used) FROM executor.ai_usage").fetchone()
        return int(row[0]) if row and row[0] else 0


def main() -> None:
    seconds, seed = setting("SECONDS", 600), setting("SEED", random.randrange(10_000))
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"{seconds} s, SOAK_SEED={seed}; data and logs in {folder}", flush=True)
    with OpenAIServer(delay_seconds=AI_DELAY) as ai:
        ai.behave(Behaviour(delay_seconds=AI_DELAY))
        env = {
            "AI_PROVIDER": "openai",
            "OPENAI_API_KEY": ai.api_key,
            "OPENAI_BASE_URL": ai.base_url,
            "AI_MODEL": "test-model",
            "AI_TIMEOUT_SECONDS": "5",
            "EXECUTOR_LEASE_SECONDS": str(LEASE),
            "LOG_LEVEL": "WARNING",
        }
        with Stack(StackOptions(data_dir=folder, runs_replicas=2, executor_replicas=2, env=env)) as stack:
            outcome = asyncio.run(soak(stack, ai, seconds, seed))
    print(f"\n{table(outcome)}\n")
    if problems := outcome.problems():
        sys.exit("; ".join(problems))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
