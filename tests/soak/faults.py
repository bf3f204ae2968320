"""What is done to a stack under the soak, one thing after the other."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

import redis

from devstack.services import Service
from devstack.stack import Stack
from tests.support import breaking
from tests.support.proxy import Proxy

LEASE = 5.0  # seconds, of the executors
FREEZE = LEASE + 2  # seconds
OUTAGE = 4.0  # seconds that a broker is away
TERMINATED_A_SECOND = 5


@dataclass(frozen=True)
class Injected:
    """A fault that was, and when, by time.monotonic()."""

    name: str
    began: float
    ended: float


class Faults:
    """The faults there are, in a random order in which each comes once before any comes again."""

    def __init__(self, stack: Stack, proxies: Sequence[Proxy], *, seed: int) -> None:
        self._stack = stack
        self._proxies = proxies
        self._dice = random.Random(seed)
        self._kinds: list[Callable[[], Awaitable[str]]] = [
            self._runs_service_killed,
            self._executor_killed,
            self._executor_frozen,
            self._broker_killed,
            self._broker_frozen,
            self._broker_flushed,
            self._postgres_restarted,
            self._listeners_terminated,
            self._connections_terminated,
            self._watchers_cut,
            self._restarted_gracefully,
        ]
        self._order = self._shuffled()
        self.injected: list[Injected] = []
        self.deaths_of_executors = 0  # and stops: what they had asked the AI for may have been for nothing

    async def inject(self) -> Injected:
        """Let the next fault happen; return when it is over."""
        began = time.monotonic()
        name = await next(self._order)()
        self.injected.append(Injected(name, began, time.monotonic()))
        return self.injected[-1]

    def _shuffled(self) -> Iterator[Callable[[], Awaitable[str]]]:
        while True:
            yield from self._dice.sample(self._kinds, len(self._kinds))

    async def _runs_service_killed(self) -> str:
        await self._killed(self._dice.choice(self._stack.runs))
        return "runs_service killed (SIGKILL)"

    async def _executor_killed(self) -> str:
        await self._killed(self._dice.choice(self._stack.executors))
        self.deaths_of_executors += 1
        return "executor killed (SIGKILL)"

    async def _executor_frozen(self) -> str:
        with breaking.frozen(self._dice.choice(self._stack.executors)):
            await asyncio.sleep(FREEZE)
        self.deaths_of_executors += 1
        return f"executor frozen for {FREEZE:.0f} s, its lease is {LEASE:.0f} s"

    async def _broker_killed(self) -> str:
        assert self._stack.valkey
        self._stack.valkey.kill()
        await asyncio.sleep(OUTAGE)
        await breaking.start(self._stack.valkey)
        return f"broker killed, away for {OUTAGE:.0f} s"

    async def _broker_frozen(self) -> str:
        assert self._stack.valkey
        with breaking.frozen(self._stack.valkey):
            await asyncio.sleep(OUTAGE)
        return f"broker frozen for {OUTAGE:.0f} s"

    async def _broker_flushed(self) -> str:
        assert self._stack.valkey
        with redis.Redis.from_url(self._stack.valkey.url) as broker:
            broker.flushall()
        return "broker flushed"

    async def _postgres_restarted(self) -> str:
        await breaking.stop(self._stack.postgres)
        await breaking.start(self._stack.postgres)
        return "PostgreSQL restarted"

    async def _listeners_terminated(self) -> str:
        breaking.terminate(self._stack, [breaking.LISTENERS])
        return "LISTEN connections terminated"

    async def _connections_terminated(self) -> str:
        for _ in range(int(OUTAGE) * TERMINATED_A_SECOND):
            breaking.terminate(self._stack, at_most=1)
            await asyncio.sleep(1 / TERMINATED_A_SECOND)
        return f"connections to PostgreSQL terminated, {TERMINATED_A_SECOND} a second for {OUTAGE:.0f} s"

    async def _watchers_cut(self) -> str:
        for proxy in self._proxies:
            proxy.cut()
        return "all watchers' connections cut"

    async def _restarted_gracefully(self) -> str:
        for service in (self._dice.choice(self._stack.runs), self._dice.choice(self._stack.executors)):
            await breaking.stop(service)
            await breaking.start(service)
        self.deaths_of_executors += 1
        return "a runs_service, then an executor restarted (SIGTERM)"

    async def _killed(self, service: Service) -> None:
        service.kill()
        await breaking.start(service)


async def every(seconds: float, faults: Faults, until: float) -> AsyncIterator[Injected]:
    """Inject a fault every so many seconds until a time of time.monotonic(); yield each."""
    due = time.monotonic() + seconds / 2
    while due < until:
        await asyncio.sleep(due - time.monotonic())
        yield await faults.inject()
        due = max(due + seconds, time.monotonic())
