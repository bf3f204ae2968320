"""Checks that the work of a benchmark was done; a benchmark that cannot show it fails."""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
import redis
from playbooks.executor.v1.job_pb2 import RunJobBatch

from devstack.stack import Stack

DATABASE = "playbook_runs"
JOBS_QUEUE = "playbook-runs.jobs"


class BenchmarkError(Exception):
    """The benchmark did not do the work that it claims."""


def require(condition: object, message: str) -> None:
    """Raise BenchmarkError with `message` unless `condition` is true."""
    if not condition:
        raise BenchmarkError(message)


def rows(stack: Stack, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return what `query` finds, asked as superuser: the services' tables are `runs.*` and `executor.*`."""
    with psycopg.connect(stack.postgres.url(database=DATABASE)) as connection:
        return connection.execute(query, parameters).fetchall()  # type: ignore[call-overload]


def scalar(stack: Stack, query: str, parameters: Sequence[Any] = ()) -> Any:
    """Return the one value that `query` finds."""
    return rows(stack, query, parameters)[0][0]


def broker(stack: Stack) -> "redis.Redis[bytes]":
    """Return a connection to the stack's Valkey; use it with `with`."""
    require(stack.valkey, "the stack has no broker")
    return redis.Redis.from_url(stack.valkey.url)


def require_durable(stack: Stack) -> None:
    """Fail unless what is acknowledged is on disk: fsync in PostgreSQL, an append-only file in Valkey."""
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        value = scalar(stack, f"SHOW {setting}")
        require(value == "on", f"PostgreSQL runs with {setting} {value}")
    if stack.valkey:
        with broker(stack) as connection:
            found = connection.config_get("append*")
        require(found["appendonly"] == "yes", "Valkey keeps no append-only file")
        require(found["appendfsync"] in ("everysec", "always"), f"Valkey's appendfsync is {found['appendfsync']}")
    require(stack.options.auth == "jwt", "authentication is off")


def require_ended(stack: Stack, project: str, expected: int, *, status: str = "SUCCEEDED") -> None:
    """Fail unless exactly `expected` runs of the project are there, all of them `status`, with whole histories."""
    found = dict(rows(stack, "SELECT status, count(*) FROM runs.runs WHERE project_id = %s GROUP BY 1", [project]))
    require(found == {status: expected}, f"{expected} runs of {project} should be {status}: {found}")
    gaps = scalar(
        stack,
        """SELECT count(*) FROM (
             SELECT run_id FROM runs.run_events JOIN runs.runs ON runs.id = run_id WHERE runs.project_id = %s
             GROUP BY run_id HAVING count(*) <> max(sequence) OR min(sequence) <> 1) AS gaps""",
        [project],
    )
    require(gaps == 0, f"{gaps} histories of {project} have gaps")


def run_ids(stack: Stack, project: str) -> set[str]:
    """Return the ids of a project's runs, as the database has them."""
    return {str(row[0]) for row in rows(stack, "SELECT id FROM runs.runs WHERE project_id = %s", [project])}


def queued_run_ids(stack: Stack) -> list[str]:
    """Return the run ids of all jobs that wait in the broker's queue, one for each job."""
    with broker(stack) as connection:
        messages: Iterable[bytes] = connection.lrange(JOBS_QUEUE, 0, -1)
    return [job.run_id for message in messages for job in RunJobBatch.FromString(_body(message)).jobs]


def _body(message: bytes) -> bytes:
    """Return the body of a message as Kombu keeps it in Redis."""
    envelope = json.loads(message)
    body = envelope["body"]
    return base64.b64decode(body) if envelope["properties"].get("body_encoding") == "base64" else body.encode()
