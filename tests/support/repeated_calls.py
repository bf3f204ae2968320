"""Calls that are repeated, on a run store: what they create, and how many of them it keeps."""

from typing import Any

import pytest
from playbooks.runs.v1.run_pb2 import Run

from runs_service import messages
from runs_service.messages import NewRun
from runs_service.store import RunStore, Stored
from servicekit.ids import uuid7
from servicekit.postgres.database import Database
from tests.support.database import rows
from tests.support.runs import NOW, TERMINAL, event, new_run

SCOPED = {"run_type": Run.DRAFT_GENERATE, "scope_id": "s", "rules_hash": "h"}
APPLY = SCOPED | {"run_type": Run.APPLY}
each_kind = pytest.mark.parametrize(
    "fields", [{}, {"idempotency_key": "k"}, SCOPED, APPLY], ids=["bare preview", "key", "draft", "apply"]
)
each_end = pytest.mark.parametrize("status", TERMINAL, ids=Run.Status.Name)


async def create(store: RunStore, **fields: Any) -> Stored:
    (stored,) = await store.create([new_run(**fields)])
    return stored


async def end(store: RunStore, run: Run, status: Run.Status.ValueType) -> None:
    await store.history.apply_events([event(run.id, 1, status, project_id=run.project_id)], NOW)


async def retry_of(store: RunStore, run: Run, key: str | None = None) -> NewRun:
    original = await store.runs.original(run.project_id, run.id)
    assert original
    return messages.retry(original[0], key=key, run_id=uuid7(), user_id="u", request_id="r", now=NOW)


async def retry(store: RunStore, run: Run, key: str | None = None) -> Stored:
    (stored,) = await store.create([await retry_of(store, run, key)])
    return stored


async def calls(database: Database) -> int:
    return len(await rows(database, "SELECT 1 FROM runs.calls"))


async def stored_runs(database: Database) -> int:
    return len(await rows(database, "SELECT 1 FROM runs.runs"))
