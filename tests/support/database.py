"""What a service's database has on record, and ways to disturb its server."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg

from devstack.postgres import Postgres
from servicekit.postgres.database import Database


async def rows(database: Database, statement: str, **values: Any) -> Sequence[Any]:
    """Return what a statement finds, with `values` for its `%(names)s`."""
    return await database.fetch_all(statement, values)


async def plan_of(database: Database, statement: str, values: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Run a statement, and return the nodes of its plan."""
    ((document,),) = await database.fetch_all(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
    nodes: list[dict[str, Any]] = []
    rest = [document[0]["Plan"]]
    while rest:
        node = rest.pop()
        nodes.append(node)
        rest += node.get("Plans", [])
    return nodes


def kill_backends(url: str, like: str) -> int:
    """Terminate the other connections with such an application_name; return how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE %s AND datname = current_database() AND pid <> pg_backend_pid()",
            [like],
        ).rowcount


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """Let a server and all its backends stand still within the block."""
    assert server.pid is not None
    pids = [server.pid, *(child.pid for child in psutil.Process(server.pid).children())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
