"""Breaking the parts of a running stack without stopping the test's event loop, on which loads and proxies live."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence

import psycopg

from devstack.process import Process
from devstack.stack import Stack

LISTENERS = "listen-run_changes"  # as pg_stat_activity knows the connections that wait for NOTIFY
SERVICES = ("runs-service", "executor-service", LISTENERS)


async def stop(process: Process) -> int:
    """Ask it to stop, and return its exit code when it has; -9 when it had to be killed after a while."""
    popen = process._popen
    assert popen is not None
    process.request_stop()
    await asyncio.to_thread(process.wait_stopped)
    return popen.wait()


async def start(process: Process) -> None:
    """Start it again, and return when it serves."""
    process.start()  # from this thread: see devstack.process.spawn
    await asyncio.to_thread(process.wait_ready)


@contextlib.contextmanager
def frozen(process: Process) -> Iterator[None]:
    """Within the block it stands still, and its connections stay open."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def backends(stack: Stack, applications: Sequence[str] = SERVICES) -> set[int]:
    """Return the process ids of PostgreSQL's sessions with such application names."""
    with _connect(stack) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = ANY(%s)"
        return {pid for (pid,) in connection.execute(query, [list(applications)])}


def terminate(stack: Stack, applications: Sequence[str] = SERVICES, *, at_most: int = 1_000) -> int:
    """Terminate sessions with such application names, picked at random; return how many."""
    with _connect(stack) as connection:
        query = """
            SELECT pg_terminate_backend(pid) FROM (
                SELECT pid FROM pg_stat_activity WHERE application_name = ANY(%s) ORDER BY random() LIMIT %s
            ) AS victims"""
        return connection.execute(query, [list(applications), at_most]).rowcount


def _connect(stack: Stack) -> psycopg.Connection[tuple[int]]:
    return psycopg.connect(stack.postgres.url(database="playbook_runs"), autocommit=True)
