"""Rivals' workers and clients, over the same stores as the product."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from benchmarks.harness import checks
from benchmarks.harness.load import load
from benchmarks.harness.stack import make_database
from benchmarks.harness.worker import Worker
from devstack.stack import Stack


@dataclass(frozen=True)
class Rival:
    """A rival that is ready for work: the module of its client, and its worker, if one runs."""

    name: str
    client: str
    env: Mapping[str, str]
    stored: Callable[[], int]  # how many tasks are in its store, ended ones included
    worker: Worker | None = None

    def ask(self, work: str, **spec: Any) -> Any:
        """Have a client process do something, and return its answer."""
        return load(self.client, env=self.env, work=work, **spec)


# One process, as the others have: the pool `threads` drained faster than `solo` and `prefork`, and answered a single
# task as soon as `solo` did. Gossip, mingle and heartbeats are for several workers.
CELERY_OPTIONS = ("--pool=threads", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")


@contextmanager
def celery(stack: Stack, *, worker: bool) -> Iterator[Rival]:
    """Celery, broker and results in the stack's Valkey."""
    assert stack.valkey
    env = {"BENCH_BROKER_URL": stack.valkey.url}
    options = ("-A", "benchmarks.rivals.celery_app", "worker", *CELERY_OPTIONS)
    process = _worker(stack, "celery", *options, env=env)

    def queued() -> int:
        with checks.broker(stack) as broker:
            return int(broker.llen("celery"))

    rival = Rival("Celery", "benchmarks.rivals.celery_client", env, queued, process if worker else None)
    with process if worker else nullcontext():
        yield rival


@contextmanager
def procrastinate(stack: Stack, *, worker: bool) -> Iterator[Rival]:
    """Procrastinate, in a database of its own in the stack's PostgreSQL."""
    database = make_database(stack, "procrastinate")
    env = {"BENCH_DATABASE_URL": database.url}
    module = "benchmarks.rivals.procrastinate_worker"
    subprocess.run([sys.executable, "-m", module, "migrate"], env={**os.environ, **env}, check=True)
    process = _worker(stack, module, env=env)

    def stored() -> int:
        return int(database.scalar("SELECT count(*) FROM procrastinate_jobs"))

    rival = Rival("procrastinate", "benchmarks.rivals.procrastinate_client", env, stored, process if worker else None)
    with process if worker else nullcontext():
        yield rival


@contextmanager
def dbos(stack: Stack, *, worker: bool) -> Iterator[Rival]:
    """DBOS, in a database of its own in the stack's PostgreSQL."""
    database = make_database(stack, "dbos")
    env = {"BENCH_DATABASE_URL": database.url}
    process = _worker(stack, "benchmarks.rivals.dbos_app", env=env)

    def stored() -> int:
        return int(database.scalar("SELECT count(*) FROM dbos.workflow_status"))

    with process:  # without one there is no schema
        if not worker:
            process.stop()
        yield Rival("DBOS", "benchmarks.rivals.dbos_client", env, stored, process if worker else None)


def _worker(stack: Stack, module: str, *arguments: str, env: Mapping[str, str]) -> Worker:
    log = stack.data_dir.log(module.rpartition(".")[2])
    return Worker(module, *arguments, log=log, env=env, ready=lambda text: "ready\n" in text)


def version(package: str) -> str:
    """Return the version of an installed package."""
    return metadata.version(package)
