"""One shape for everything that runs in the background, and what starts and ends a process."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import NoReturn

from servicekit.errors import ServiceError
from servicekit.telemetry.outages import Reminder

logger = logging.getLogger(__name__)

LAST_STEPS = 2.0  # seconds that a stop may take beyond its grace time
RESTART_DELAYS = (0.1, 0.5, 1.0, 2.0)  # seconds; the last one repeats


class Worker(ABC):
    """A loop in the background. `start` it once; `stop` may be called twice, or without a start.

    When `run` raises, that is logged and it is started again after a short, growing delay: a fault must
    never silently end a loop that a promise rests on.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._reminder = Reminder()  # also of the lines that a subclass logs about what may last
        self._stopping = False

    @abstractmethod
    async def run(self) -> None:
        """Do the work until cancelled."""

    async def start(self) -> None:
        """Start the loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name=type(self).__name__)

    async def stop(self) -> None:
        """End the run and wait until it has ended."""
        task = self._task
        if task is None:
            return
        # Once: a second cancel would break into the cleanup after the first. task.cancelling() is no help: it also
        # counts a timeout that expires within `run`.
        if not self._stopping:
            self._stopping = True
            task.cancel()
        await asyncio.wait([task])
        if self._task is task:
            self._task, self._stopping = None, False

    async def _supervise(self) -> None:
        failures = 0
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self.run()
                return
            except Exception as error:
                if asyncio.get_running_loop().time() - started > RESTART_DELAYS[-1] * 5:
                    failures = 0
                delay = RESTART_DELAYS[min(failures, len(RESTART_DELAYS) - 1)]
                # An outage is no fault of the worker: one line, no trace; `Outage` logs the reason, and that
                # it lasts.
                is_outage = isinstance(error, ConnectionError | ServiceError)
                logger.log(
                    logging.DEBUG if is_outage and failures else self._reminder.level_for(repr(error)),
                    "%s failed: %s; again in %.1f s",
                    *(type(self).__name__, error, delay),
                    exc_info=None if is_outage else error,
                )
                failures += 1
            await asyncio.sleep(delay)


class Ticker(Worker):
    """Calls `tick` at its start, every `interval` seconds (None: never by itself), and at once when woken."""

    def __init__(self, interval: float | None = None) -> None:
        super().__init__()
        self.interval = interval
        self._woken = asyncio.Event()

    @abstractmethod
    async def tick(self) -> float | None:
        """Do one round of work; return the seconds until the next one, None: `interval`."""

    def wake(self) -> None:
        """Let the next round begin now."""
        self._woken.set()

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self._woken.clear()
            delay = await self.tick()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.interval if delay is None else delay):
                    await self._woken.wait()


@contextlib.asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    """Run `workers` within the block: started in order, stopped in reverse order."""
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            stack.push_async_callback(worker.stop)
            await worker.start()
        yield


def freeze_gc() -> None:
    """Exempt all present objects from garbage collection, and collect less often: calls make garbage by the thousand.

    Call it once everything is imported and built. Otherwise each full collection walks through all of that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def stop_signal() -> None:
    """Return when the process gets SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    await stopped.wait()


def exit_now() -> NoReturn:
    """End this process with exit code 0, without the interpreter's own shutdown.

    That takes time, and Kombu's part in it waits for the broker.
    """
    logging.shutdown()
    os._exit(0)


def force_exit_after(seconds: float) -> None:
    """End this process, which is stopping, after `seconds` at the latest, with exit code 0.

    A database or broker that stands still can delay any step of a stop. No promise depends on the remaining steps: the
    next process finds in the tables what they would have published.
    """

    def end() -> None:
        logger.warning("the stop takes longer than %.1f s; the process ends without the rest of it", seconds)
        exit_now()

    # A thread, so that a blocked event loop cannot delay it as well.
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
