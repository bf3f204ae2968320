"""What must be true of a stack once all runs have ended, after any fault."""

import psycopg
import redis

from devstack.stack import Stack
from tests.support.waiting import eventually

# What each number counts. All of them are 0 when every promise was kept.
PROMISES = {
    "active runs": "SELECT count(*) FROM runs.runs WHERE status IN ('QUEUED', 'RUNNING')",
    "undispatched runs": "SELECT count(*) FROM runs.runs WHERE dispatched_at IS NULL",
    "stops not delivered": "SELECT count(*) FROM runs.runs WHERE stop_pending",
    "inbox": "SELECT count(*) FROM executor.executions WHERE status IN ('QUEUED', 'RUNNING')",
    "outbox": "SELECT count(*) FROM executor.executions WHERE published_number < event_number",
    "quota still reserved": "SELECT count(*) FROM executor.executions WHERE ai_reserved <> 0",
    "runs the services disagree about": """
        SELECT count(*) FROM runs.runs r FULL JOIN executor.executions e ON e.run_id = r.id
        WHERE e.run_id IS NULL OR r.id IS NULL OR e.status <> r.status""",
    "histories with gaps": """
        SELECT count(*) FROM (SELECT run_id FROM runs.run_events GROUP BY run_id
                              HAVING count(*) <> max(sequence) OR min(sequence) <> 1) AS gaps""",
    "products an apply wrote twice": """
        SELECT count(*) FROM (
            SELECT 1 FROM executor.run_items i JOIN executor.executions e USING (run_id)
            WHERE i.status = 'UPDATED' GROUP BY e.project_id, e.scope_id, i.product_id
            HAVING count(*) > 1) AS twice""",
    "days whose usage is not what suggestions were stored": """
        SELECT count(*) FROM (SELECT project_id, sum(used) AS used FROM executor.ai_usage GROUP BY 1) AS usage
        FULL JOIN (SELECT project_id, count(*) AS stored FROM executor.suggestions GROUP BY 1) AS kept
            USING (project_id)
        WHERE coalesce(used, 0) <> coalesce(stored, 0)
            -- A purged project keeps what it has used today.
            AND project_id IN (SELECT project_id FROM executor.executions)""",
}


def broken_promises(stack: Stack, *, unacknowledged: int = 0) -> dict[str, int]:
    """Return the promises that are broken now, by name."""
    broken: dict[str, int] = {}
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        for name, query in PROMISES.items():
            row = database.execute(query).fetchone()  # type: ignore[call-overload]
            if row and row[0]:
                broken[name] = row[0]
    if stack.valkey is not None:
        with redis.Redis.from_url(stack.valkey.url) as broker:
            for queue in ("playbook-runs.jobs", "playbook-runs.events"):
                if waiting := broker.llen(queue):
                    broken[queue] = int(waiting)
            if (held := int(broker.hlen("playbook-runs.unacked"))) > unacknowledged:
                broken["unacknowledged messages"] = held
    return broken


async def audit(stack: Stack, *, timeout: float = 30, unacknowledged: int = 0) -> int:
    """Wait until every promise is kept, and return how many runs there are. Fails naming those that are broken.

    So many messages may be `unacknowledged`: what a killed consumer had in hand the broker keeps for a minute, and
    delivers it then once more, which changes nothing.
    """
    broken: dict[str, int] = {"not looked at": 1}

    def holds() -> bool:
        broken.clear()
        broken.update(broken_promises(stack, unacknowledged=unacknowledged))
        return not broken

    try:
        await eventually(holds, timeout=timeout)
    except AssertionError:
        raise AssertionError(f"after {timeout} s: {broken}") from None
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        row = database.execute("SELECT count(*) FROM runs.runs").fetchone()
    return int(row[0]) if row else 0
