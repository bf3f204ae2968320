"""Stacks to be measured: real processes, durable settings, tokens checked."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import psycopg
from playbooks.executor.v1 import catalog_service_pb2 as catalog
from playbooks.executor.v1.catalog_service_pb2_grpc import CatalogServiceStub

from benchmarks.harness import checks
from devstack.stack import Stack, StackOptions

UNLIMITED = {"RUNS_MAX_CREATES_PER_SECOND": "1000000", "RUNS_MAX_QUEUED": "1000000"}


@contextmanager
def durable_stack(**options: Any) -> Iterator[Stack]:
    """Enter a stack of its own with these StackOptions, in a folder that is gone afterwards.

    A benchmark is one project that asks for all that the services can do: the limits of a project are out of its way.
    """
    options["runs_env"] = UNLIMITED | (options.get("runs_env") or {})
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Stack(StackOptions(data_dir=Path(folder), durable=True, **options)) as stack,
    ):
        checks.require_durable(stack)
        yield stack


def make_project(stack: Stack, name: str = "bench") -> str:
    """Make a BUSINESS project through the API and return its id."""
    project = f"{name}-{uuid4().hex[:8]}"
    request = catalog.PutProjectRequest(project_id=project, plan=catalog.Project.BUSINESS)
    metadata = (("authorization", f"Bearer {stack.token('*', 'OWNER')}"),)
    with grpc.insecure_channel(stack.executor_target) as channel:
        CatalogServiceStub(channel).PutProject(request, metadata=metadata, timeout=30)
    return project


@dataclass(frozen=True)
class Database:
    """A rival's database, in the same PostgreSQL that the product uses."""

    url: str

    def scalar(self, query: str) -> Any:
        """Return the one value that `query` finds."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(query).fetchone()[0]  # type: ignore[call-overload,index]

    def execute(self, statement: str) -> None:
        """Carry out one statement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]


def make_database(stack: Stack, name: str) -> Database:
    """Make an empty database beside the product's."""
    with psycopg.connect(stack.postgres.url(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    return Database(stack.postgres.url(database=name))
