"""A long past of a project, written straight into the database: 100,000 runs in a few seconds."""

from datetime import UTC, datetime, timedelta

import psycopg
from playbooks.runs.v1.run_pb2 import Run

from devstack.stack import Stack
from servicekit.ids import first_uuid7

APART = timedelta(seconds=10)  # between two runs
FAILED_OF = 1_000  # runs, of which one failed
COPY = """
COPY runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id, dedup_key,
                frees_on_success, fingerprint, dispatched_at, reconcile_at, deadline_at) FROM STDIN"""


def write_past(stack: Stack, project: str, count: int) -> list[Run]:
    """Give a project `count` previews that have ended; return them, newest first."""
    now = datetime.now(UTC)
    runs = [_run(project, number, now - APART * (number + 1)) for number in range(count)]
    with psycopg.connect(stack.postgres.url(database="playbook_runs"), autocommit=True) as database:
        with database.cursor().copy(COPY) as copy:
            for run in runs:
                created = run.created_at.ToDatetime(UTC)
                status, kind = Run.Status.Name(run.status), Run.Type.Name(run.run_type)
                row = (run.id, project, run.playbook_id, kind, run.scope_id, status, created, run.SerializeToString())
                copy.write_row((*row, "test", run.id, True, b"", created, created, created))
        database.execute("VACUUM ANALYZE runs.runs")
    return runs


def _run(project: str, number: int, created: datetime) -> Run:
    run = Run(
        id=first_uuid7(created),
        project_id=project,
        playbook_id="missing_seo_title",
        run_type=Run.PREVIEW_GENERATE,
        scope_id="0123456789abcdef",
        status=Run.FAILED if number % FAILED_OF == FAILED_OF - 1 else Run.SUCCEEDED,
        created_by_user_id="mira",
        sequence=3,
    )
    for time in (run.created_at, run.started_at, run.finished_at, run.updated_at):
        time.FromDatetime(created)
    if run.status == Run.FAILED:
        run.error_code, run.error_message = "AI_TIMEOUT", "The AI provider did not answer."
    else:
        run.result.affected_total = run.result.draft_generated = 3
    return run
