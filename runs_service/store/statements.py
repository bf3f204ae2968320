"""Every SQL statement of runs_service."""
# ruff: noqa: S608 - statements are put together from constants only

from sqlalchemy import text

from runs_service.models import ACTIVE, HOLDS_KEY, STOP_PENDING, UNDISPATCHED

INSERT = text(f"""
    WITH inserted AS (
        INSERT INTO runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id,
                               dedup_key, frees_on_success, fingerprint, deadline_at, reconcile_at)
        SELECT id, project_id, playbook_id, run_type, scope_id, 'QUEUED', created_at, run, request_id,
               dedup_key, frees_on_success, fingerprint, deadline_at, now() + :reconcile_after
        FROM unnest(CAST(:ids AS uuid[]), CAST(:projects AS text[]), CAST(:playbooks AS text[]),
                    CAST(:types AS text[]), CAST(:scopes AS text[]), CAST(:created AS timestamptz[]),
                    CAST(:runs AS bytea[]), CAST(:requests AS text[]), CAST(:keys AS text[]),
                    CAST(:frees AS boolean[]), CAST(:fingerprints AS bytea[]), CAST(:deadlines AS timestamptz[]))
             AS wanted (id, project_id, playbook_id, run_type, scope_id, created_at, run, request_id,
                        dedup_key, frees_on_success, fingerprint, deadline_at)
        ON CONFLICT (project_id, dedup_key) WHERE {HOLDS_KEY} DO NOTHING
        RETURNING id, run
    ), history AS (
        INSERT INTO runs.run_events (run_id, sequence, run) SELECT id, 1, run FROM inserted
    )
    SELECT id FROM inserted
""")

HOLDING_KEY = text(f"""
    SELECT wanted.id AS wanted_id, runs.run, runs.fingerprint
    FROM unnest(CAST(:ids AS uuid[]), CAST(:projects AS text[]), CAST(:keys AS text[]))
         AS wanted (id, project_id, dedup_key)
    JOIN runs.runs ON runs.project_id = wanted.project_id AND runs.dedup_key = wanted.dedup_key
    WHERE {HOLDS_KEY}
""")

GET = text("SELECT run FROM runs.runs WHERE id = CAST(:id AS uuid) AND project_id = :project")

PAGE = """
    SELECT run FROM runs.runs WHERE project_id = :project_id {conditions} {older}
    ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset
"""

# A kind is a playbook, a type and a status. The index runs_by_kind has the newest runs of each at hand; a page is put
# together out of these: it costs the same whatever is asked for and however rare it is.
PAGE_OF_KINDS = """
    SELECT runs.run
    FROM (
        SELECT found.id
        FROM unnest(CAST(:playbook_id AS text[])) AS playbook (name)
        CROSS JOIN unnest(CAST(:run_type AS text[])) AS type (name)
        CROSS JOIN unnest(CAST(:status AS text[])) AS state (name)
        CROSS JOIN LATERAL (
            SELECT id, created_at FROM runs.runs
            WHERE project_id = :project_id AND playbook_id = playbook.name AND run_type = type.name
              AND status = state.name {older}
            ORDER BY created_at DESC, id DESC LIMIT :reach
        ) AS found
        ORDER BY found.created_at DESC, found.id DESC LIMIT :limit OFFSET :offset
    ) AS page JOIN runs.runs USING (id)
    ORDER BY runs.created_at DESC, runs.id DESC
"""

ORIGINAL = text("""
    SELECT first.run AS original, runs.run, request_id, fingerprint, dedup_key, frees_on_success, created_at
    FROM runs.runs JOIN runs.run_events AS first ON first.run_id = runs.id AND first.sequence = 1
    WHERE runs.id = CAST(:id AS uuid) AND project_id = :project
""")

CHANGES_AFTER = text("""
    SELECT change.run
    FROM unnest(CAST(:ids AS uuid[]), CAST(:afters AS bigint[])) AS watched (run_id, after)
    CROSS JOIN LATERAL (
        SELECT run_id, sequence, run FROM runs.run_events
        WHERE run_id = watched.run_id AND sequence > watched.after
        ORDER BY sequence LIMIT :limit
    ) AS change
    ORDER BY change.run_id, change.sequence
""")

OLDEST = text("SELECT min(sequence) FROM runs.run_events WHERE run_id = CAST(:id AS uuid)")

MARK_DISPATCHED = text("""
    WITH free AS MATERIALIZED (
        -- Those that are locked are being changed, which notes the same.
        SELECT id, age FROM unnest(CAST(:ids AS uuid[]), CAST(:ages AS double precision[])) AS handed (id, age)
        JOIN runs.runs USING (id) WHERE dispatched_at IS NULL
        FOR UPDATE OF runs SKIP LOCKED
    )
    UPDATE runs.runs
    SET dispatched_at = now() - free.age * interval '1 second', reconcile_at = now() + :reconcile_after
    FROM free WHERE runs.id = free.id
""")

# What is left behind, each found by a partial index.
_LEFT = f"{UNDISPATCHED} AND created_at < now() - :older_than"
_SILENT = f"{ACTIVE} AND reconcile_at <= now() AND dispatched_at IS NOT NULL"
_OVERDUE = f"{ACTIVE} AND deadline_at < now() - :margin"

DUE = text(f"""
    SELECT EXISTS (SELECT FROM runs.runs WHERE {STOP_PENDING}) AS stops,
           EXISTS (SELECT FROM runs.runs WHERE {_OVERDUE}) AS overdue,
           EXISTS (SELECT FROM runs.runs WHERE {_LEFT}) AS undispatched,
           EXISTS (SELECT FROM runs.runs WHERE {_SILENT}) AS silent
""")

FIND_UNDISPATCHED = text(f"""
    SELECT run, request_id FROM runs.runs
    WHERE {_LEFT}
    ORDER BY created_at LIMIT :limit
""")

TAKE_SILENT = text(f"""
    UPDATE runs.runs SET reconcile_at = now() + :reconcile_after
    WHERE id IN (
        SELECT id FROM runs.runs
        WHERE {_SILENT}
        ORDER BY reconcile_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING run, request_id
""")

REQUEST_STOP = text(f"UPDATE runs.runs SET stop_pending = true WHERE id = CAST(:id AS uuid) AND {ACTIVE}")

STOPS = text(f"""
    SELECT run, request_id FROM runs.runs WHERE {STOP_PENDING} AND id > CAST(:after AS uuid) ORDER BY id LIMIT :limit
""")

MARK_STOPPED = text("UPDATE runs.runs SET stop_pending = false WHERE id = ANY(CAST(:ids AS uuid[]))")

OVERDUE = text(f"SELECT id FROM runs.runs WHERE {_OVERDUE} ORDER BY deadline_at LIMIT :limit")

LOCK = text("""
    SELECT id, event_number, run FROM runs.runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
""")

CHANGE = text("""
    WITH locked AS MATERIALIZED (
        -- In order, so that two processes that change the same runs do not wait for each other in a circle.
        SELECT id FROM runs.runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
    ), changed AS (
        UPDATE runs.runs
        SET event_number = heard.event_number, status = heard.status, scope_id = heard.scope_id, run = heard.run,
            dispatched_at = coalesce(dispatched_at, now()), reconcile_at = now() + :reconcile_after,
            stop_pending = stop_pending OR :stop
        FROM unnest(CAST(:ids AS uuid[]), CAST(:old_numbers AS bigint[]), CAST(:old_statuses AS text[]),
                    CAST(:numbers AS bigint[]), CAST(:statuses AS text[]),
                    CAST(:scopes AS text[]), CAST(:runs AS bytea[]))
             AS heard (id, old_number, old_status, event_number, status, scope_id, run)
             JOIN locked USING (id)
        WHERE runs.id = heard.id AND runs.event_number = heard.old_number AND runs.status = heard.old_status
        RETURNING runs.id
    ), history AS (
        INSERT INTO runs.run_events (run_id, sequence, run)
        SELECT told.* FROM unnest(CAST(:event_ids AS uuid[]), CAST(:sequences AS bigint[]),
                                  CAST(:event_runs AS bytea[])) AS told (run_id, sequence, run)
        WHERE told.run_id IN (SELECT id FROM changed)
    )
    SELECT id FROM changed
""")
