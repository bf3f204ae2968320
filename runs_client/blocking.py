"""RunsClient and ExecutorClient for programs without asyncio: the same methods, which block their thread."""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from runs_client.client import RunsClient
from runs_client.connection import CLOSED, TIMEOUT, Token
from runs_client.executor import ExecutorClient
from runs_client.service_client import ServiceClient

P = ParamSpec("P")
T = TypeVar("T")
Client = TypeVar("Client", bound=ServiceClient)


class BlockingClient(Generic[Client]):
    """A client whose calls run on an event loop in a thread of its own; use it with `with`, from any threads.

    Its arguments, and the reasons that any call may fail with, are those of ServiceClient. A process that forks makes
    it after the fork. A program that has an event loop uses the client of asyncio instead.
    """

    _kind: type[Client]

    def __init__(
        self,
        target: str,
        *,
        token: Token = "",
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        timeout: float = TIMEOUT,
        http_proxy: bool = False,
    ) -> None:
        async def connect() -> Client:
            return self._kind(
                target,
                token=token,
                ca_file=ca_file,
                cert_file=cert_file,
                key_file=key_file,
                timeout=timeout,
                http_proxy=http_proxy,
            )

        # What was submitted before the client was closed ends with it. The garbage collector may come while a thread
        # has it, and submit the end of a watch.
        self._lock = threading.RLock()
        self._ends: set[asyncio.Task[None]] = set()  # of watches whose owner has forgotten them
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"calls of {target}", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(connect())
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def target(self) -> str:
        """The address of the service."""
        return self._client.target

    def require_serving(self, part: str = "") -> None:
        """Return when the service, or a `part` of it ("broker"), says over grpc.health.v1 that it serves.

        Raises ServiceCallError, with NOT_FOUND for a part that it does not have.
        """
        self._wait(self._client.require_serving(part))

    def close(self) -> None:
        """Close the connection and end its calls, those of other threads with RuntimeError; again does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._stop()

    async def _end(self) -> None:
        await self._client.close()
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop. When this thread is interrupted (Ctrl-C) it is cancelled.

        Raises RuntimeError when the client is closed, or another thread closes it meanwhile.
        """
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise RuntimeError(CLOSED)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            if not self._is_closed:
                raise
            raise RuntimeError(CLOSED) from None
        finally:
            future.cancel()  # does nothing when it has ended

    def _each(self, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yield what an asynchronous generator does, and close it when the caller stops before its end."""
        reading: asyncio.Task[Any] | None = None

        async def read() -> T | None:
            nonlocal reading
            reading = asyncio.current_task()
            return await anext(items, None)

        async def end() -> None:
            if reading and not reading.done():  # Ctrl-C came while this thread handed it over, before it could wait
                reading.cancel()
                await asyncio.wait([reading])
            await items.aclose()

        try:
            while (item := self._wait(read())) is not None:
                yield item
        finally:
            self._leave(end())

    def _leave(self, end: Coroutine[Any, Any, None]) -> None:
        """Run the `end` of an iteration, in any thread: the garbage collector ends those that were forgotten."""
        if self._is_closed or sys.is_finalizing():  # there is no loop any more that would run it
            end.close()
        elif threading.current_thread() is self._thread:
            ending = self._loop.create_task(end)
            self._ends.add(ending)
            ending.add_done_callback(self._ends.discard)
        else:
            self._wait(end)


def _call(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[BlockingClient[Client], P], T]:
    @wraps(method)
    def call(self: BlockingClient[Client], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._wait(method(self._client, *args, **kwargs))

    return call


def _iteration(
    method: Callable[Concatenate[Client, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[BlockingClient[Client], P], Generator[T, None, None]]:
    @wraps(method)
    def iterate(self: BlockingClient[Client], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._each(method(self._client, *args, **kwargs))

    return iterate


class BlockingRunsClient(BlockingClient[RunsClient]):
    """RunsClient without asyncio: `list`, `watch`, `watch_all` and `purge` are iterators, the others return at their
    end."""

    _kind = RunsClient

    create = _call(RunsClient.create)
    get = _call(RunsClient.get)
    queue_problem = _call(RunsClient.queue_problem)
    cancel = _call(RunsClient.cancel)
    retry = _call(RunsClient.retry)
    get_usage = _call(RunsClient.get_usage)
    purge = _iteration(RunsClient.purge)
    list = _iteration(RunsClient.list)
    watch = _iteration(RunsClient.watch)
    watch_all = _iteration(RunsClient.watch_all)
    preview = _call(RunsClient.preview)
    apply = _call(RunsClient.apply)


class BlockingExecutorClient(BlockingClient[ExecutorClient]):
    """ExecutorClient without asyncio: `put_batches`, `list_products` and `list_run_items` are iterators."""

    _kind = ExecutorClient

    put_project = _call(ExecutorClient.put_project)
    get_project = _call(ExecutorClient.get_project)
    put_products = _call(ExecutorClient.put_products)
    put_batches = _iteration(ExecutorClient.put_batches)
    delete_products = _call(ExecutorClient.delete_products)
    list_products = _iteration(ExecutorClient.list_products)
    estimate = _call(ExecutorClient.estimate)
    get_draft = _call(ExecutorClient.get_draft)
    get_latest_draft = _call(ExecutorClient.get_latest_draft)
    list_run_items = _iteration(ExecutorClient.list_run_items)
