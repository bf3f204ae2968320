"""The row of an execution: its columns as a State, and the fence that every write of its owner passes."""

from typing import Any

from executor_service.domain.ai_usage import AIUsage
from executor_service.domain.execution import Execution, Lease, LeaseLost, State, Status
from servicekit.postgres.database import Row

STATE = """
  run_id, project_id, event_number, status, attempt, progress_completed, progress_total, ai_used, draft_id, scope_id,
  rules_hash, result, error_code, error_message, started_at, finished_at, ai_usage"""
# A write that does not pass this is not the owner's.
FENCE = "run_id = %(run_id)s AND attempt = %(attempt)s AND lease_owner = %(owner)s AND status = 'RUNNING'"


def of(table: str, columns: str) -> str:
    """Return `columns` as those of `table`."""
    return ", ".join(f"{table}.{column.strip()}" for column in columns.split(","))


def fence(lease: Lease) -> dict[str, Any]:
    """Return the parameters of FENCE."""
    return {"run_id": lease.run_id, "attempt": lease.attempt, "owner": lease.owner}


def lease_lost(lease: Lease) -> LeaseLost:
    """Return the error of a write that did not pass the fence."""
    return LeaseLost(f"run {lease.run_id}, attempt {lease.attempt}")


def execution_of(row: Row) -> Execution:
    """Return the execution in a row of job, crashes, lease_owner and STATE."""
    return Execution(
        job_body=row.job,
        lease=Lease(row.run_id, row.attempt, row.lease_owner),
        crashes=row.crashes,
        state=state_of(row),
    )


def state_of(row: Row) -> State:
    """Return the state in a row of STATE."""
    return State(
        run_id=row.run_id,
        project_id=row.project_id,
        number=row.event_number,
        status=Status(row.status),
        attempt=row.attempt,
        completed=row.progress_completed,
        total=row.progress_total,
        ai_used=row.ai_used,
        draft_id=row.draft_id,
        scope_id=row.scope_id,
        rules_hash=row.rules_hash,
        result=row.result,
        error_code=row.error_code,
        error_message=row.error_message,
        started_at=row.started_at,
        finished_at=row.finished_at,
        ai_usage=None if row.ai_usage is None else AIUsage.from_json(row.ai_usage),
    )
