"""The run stores of two replicas, and runs in them. Tests import these fixtures: in tests/integration/conftest.py
`other` is a replica of executor_service."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

from runs_service.store import RunStore
from servicekit.postgres.database import Database
from tests.support.runs import NOW, new_run

LATER = timedelta(hours=1)


@pytest.fixture
def store(runs_database: Database) -> RunStore:
    return RunStore(runs_database, reconcile_after=LATER)


@pytest.fixture
async def other(runs_database_url: str) -> AsyncIterator[RunStore]:
    """The store of another replica."""
    database = Database(runs_database_url, pool_size=5, application_name="other")
    yield RunStore(database, reconcile_after=LATER)
    await database.close()


async def created(store: RunStore, **fields: Any) -> Run:
    (stored,) = await store.runs.create([new_run(**fields)])
    assert stored.created
    return stored.run


async def apply(store: RunStore, *events: RunEvent) -> list[Run]:
    return (await store.history.apply_events(events, NOW)).history
