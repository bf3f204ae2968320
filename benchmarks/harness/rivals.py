"""Rivals' workers and clients, in the same stores as the product."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from benchmarks.harness.load import load
from benchmarks.harness.worker import Worker
from devstack.stack import Stack


@dataclass(frozen=True)
class Rival:
    """A rival that is ready for work: the module of its client, and its worker, if one runs."""

    name: str
    client: str
    env: Mapping[str, str]
    worker: Worker | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)

    def ask(self, work: str, **spec: Any) -> Any:
        """Have a client process do something, and return its answer."""
        return load(self.client, env=self.env, work=work, **self.spec, **spec)


CELERY_OPTIONS = ("--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")


@contextmanager
def celery(stack: Stack, *, worker: bool) -> Iterator[Rival]:
    """Celery, broker and results in the stack's Valkey."""
    assert stack.valkey
    env = {"BENCH_BROKER_URL": stack.valkey.url}
    process = Worker(
        "celery",
        *("-A", "benchmarks.rivals.celery_app", "worker", *CELERY_OPTIONS),
        log=stack.data_dir.log("celery"),
        env=env,
        ready=lambda text: "ready\n" in text,
    )
    yield from _running("Celery", "benchmarks.rivals.celery_client", env, process if worker else None)


def _running(name: str, client: str, env: Mapping[str, str], worker: Worker | None) -> Iterator[Rival]:
    if worker is None:
        yield Rival(name, client, env)
        return
    with worker:
        yield Rival(name, client, env, worker)


def version(package: str) -> str:
    """Return the version of an installed package."""
    return metadata.version(package)
