"""A history of many runs, stored as if they had come one by one over months."""

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta, RunProgress, RunResult

from benchmarks.harness import checks, require
from devstack.stack import Stack

CONNECTIONS = 2  # that store runs at once
EVENTS = 3  # a run: QUEUED, RUNNING, and how it ended
RARE = 7  # runs of the big project, the oldest, of a kind and a scope that no other run has

TITLE, DESCRIPTION = "missing_seo_title", "missing_seo_description"
RARE_SCOPE = "0123456789abcdef"


@dataclass(frozen=True)
class Kind:
    """What runs have in common."""

    run_type: Run.Type.ValueType
    status: Run.Status.ValueType
    playbook_id: str = TITLE
    weight: int = 1  # in ten


COMMON = (
    Kind(Run.PREVIEW_GENERATE, Run.SUCCEEDED, weight=5),
    Kind(Run.DRAFT_GENERATE, Run.SUCCEEDED, weight=3),
    Kind(Run.PREVIEW_GENERATE, Run.FAILED),
    Kind(Run.DRAFT_GENERATE, Run.CANCELLED),
)
RARE_KIND = Kind(Run.APPLY, Run.STALE, DESCRIPTION)

# How the big project is listed: by a value that many runs have, by one that only few and old ones have, and by two
# values of which many runs have one or the other and none has both. And how many runs of a page of 20 that finds.
FILTERS: Mapping[str, tuple[dict[str, Any], int]] = {
    "playbook_id": ({"playbook_id": TITLE}, 20),
    "rare playbook_id": ({"playbook_id": RARE_KIND.playbook_id}, RARE),
    "run_type": ({"run_type": Run.DRAFT_GENERATE}, 20),
    "rare run_type": ({"run_type": RARE_KIND.run_type}, RARE),
    "status": ({"status": Run.FAILED}, 20),
    "rare status": ({"status": RARE_KIND.status}, RARE),
    "scope_id": ({"scope_id": RARE_SCOPE}, RARE),
    "run_type and status": ({"run_type": Run.DRAFT_GENERATE, "status": Run.FAILED}, 0),
}

# A stored run is put together as protobuf allows: fields in any order, what differs before what a kind has in common.
# Times are full seconds and start at a multiple of 8, so those of one run differ in the first byte of the varint only.
_FUNCTIONS = r"""
CREATE FUNCTION pg_temp.text_field(tag bytea, value text) RETURNS bytea IMMUTABLE LANGUAGE sql
RETURN tag || set_byte('\x00', 0, length(value)) || convert_to(value, 'UTF8');

CREATE FUNCTION pg_temp.upper_bits(at bigint) RETURNS bytea IMMUTABLE LANGUAGE sql
RETURN set_byte(set_byte(set_byte(set_byte('\x00000000'::bytea, 0, (at >> 7 & 127 | 128)::int),
    1, (at >> 14 & 127 | 128)::int), 2, (at >> 21 & 127 | 128)::int), 3, (at >> 28 & 127)::int);

CREATE FUNCTION pg_temp.time_field(tag bytea, at bigint, upper_bits bytea) RETURNS bytea IMMUTABLE LANGUAGE sql
RETURN tag || set_byte('\x060800', 2, (at & 127 | 128)::int) || upper_bits;
"""

# Four in ten runs are the big project's; the others have about 30 each. A run every 8 seconds: a million are 93 days.
_FILL = r"""
WITH kinds AS MATERIALIZED (
    SELECT * FROM unnest(%(playbooks)s::text[], %(types)s::text[], %(statuses)s::text[], %(queued)s::bytea[],
                         %(running)s::bytea[], %(ended)s::bytea[])
        WITH ORDINALITY AS kind (playbook_id, run_type, status, queued, running, ended, kind)
), numbered AS (
    SELECT number, (extract(epoch FROM now())::bigint / 8 - 450 - %(count)s + number) * 8 AS at,
           CASE WHEN number %% 10 < 4 THEN %(big)s
                ELSE 'shop-' || abs(hashint8(number)::bigint) %% (%(count)s / 50) END AS project_id,
           CASE WHEN number < 20 THEN 11 ELSE 1 + number / 10 %% 10 END AS kind,
           CASE WHEN number < 20 THEN %(rare_scope)s ELSE lpad(to_hex(number / 100), 16, '5c09e') END AS scope_id,
           encode(sha256(int8send(number)), 'hex') AS key
    FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
), named AS (
    SELECT *, uuidv7(to_timestamp(at) - clock_timestamp()) AS id, pg_temp.upper_bits(at) AS upper
    FROM numbered JOIN kinds USING (kind)
    OFFSET 0  -- a fence: one id a row, however often it is read
), made AS MATERIALIZED (
    SELECT id, at, project_id, playbook_id, run_type, status, scope_id, key,
           pg_temp.text_field('\x0a', id::text) || pg_temp.text_field('\x12', project_id)
             || pg_temp.text_field('\x32', scope_id) || pg_temp.text_field('\x42', key)
             || pg_temp.time_field('\xa201', at, upper) AS head,
           queued || pg_temp.time_field('\xba01', at, upper) AS queued,
           running || pg_temp.time_field('\xaa01', at + 1, upper) || pg_temp.time_field('\xba01', at + 1, upper)
             AS running,
           ended || pg_temp.time_field('\xaa01', at + 1, upper) || pg_temp.time_field('\xb201', at + 4, upper)
             || pg_temp.time_field('\xba01', at + 4, upper) AS ended
    FROM named
), stored AS (
    INSERT INTO runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id,
                           dedup_key, frees_on_success, fingerprint, dispatched_at, event_number, reconcile_at,
                           deadline_at)
    SELECT id, project_id, playbook_id, run_type, scope_id, status, to_timestamp(at), head || ended,
           'req-' || key, 'key:' || key, false, decode(key, 'hex'), to_timestamp(at), 2,
           to_timestamp(at + 9), to_timestamp(at + 600)
    FROM made
)
INSERT INTO runs.run_events (run_id, sequence, run, project_id)
SELECT id, sequence, head || rest, project_id
FROM made, LATERAL (VALUES (1, queued), (2, running), (3, ended)) AS change (sequence, rest)
"""

# Indexes that slow the import down: dropped, and recreated at the end.
_INDEXES = """
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid = 'runs.runs'::regclass AND NOT indisprimary
"""


def fill(stack: Stack, count: int, big: str) -> float:
    """Store `count` ended runs, four in ten of them in project `big`, with their histories; return the seconds it took.

    Then VACUUM ANALYZE and a checkpoint, which a table that grew over months has behind it.
    """
    started = time.monotonic()
    url = stack.postgres.url(database=checks.DATABASE)
    with psycopg.connect(url, autocommit=True) as connection:
        indexes = connection.execute(_INDEXES).fetchall()
        for drop, _ in indexes:
            connection.execute(drop)
        step = math.ceil(count / CONNECTIONS)
        parts = [(first, min(first + step - 1, count)) for first in range(1, count + 1, step)]
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(lambda part: _fill(url, count, big, *part), parts))
        connection.execute("SET maintenance_work_mem = '256MB'")
        for _, create in indexes:
            connection.execute(create)
        connection.execute("VACUUM (ANALYZE) runs.runs, runs.run_events")
        connection.execute("CHECKPOINT")
    stored = checks.rows(stack, "SELECT count(*), (SELECT count(*) FROM runs.run_events) FROM runs.runs")
    require(stored == [(count, count * EVENTS)], f"{count} runs should be stored: {stored}")
    return time.monotonic() - started


def _fill(url: str, count: int, big: str, first: int, last: int) -> None:
    """Store the runs of these numbers out of `count`."""
    kinds = [kind for kind in COMMON for _ in range(kind.weight)] + [RARE_KIND]
    parameters = {
        "count": count,
        "first": first,
        "last": last,
        "big": big,
        "rare_scope": RARE_SCOPE,
        "playbooks": [kind.playbook_id for kind in kinds],
        "types": [Run.Type.Name(kind.run_type) for kind in kinds],
        "statuses": [Run.Status.Name(kind.status) for kind in kinds],
        "queued": [_common(kind, Run.QUEUED, 1) for kind in kinds],
        "running": [_common(kind, Run.RUNNING, 2) for kind in kinds],
        "ended": [_common(kind, kind.status, 3) for kind in kinds],
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")  # no foreign key checks: both sides come from here
        connection.execute("SET work_mem = '256MB'")
        connection.execute(_FUNCTIONS)
        connection.execute(_FILL, parameters)


def sample(stack: Stack, project: str, count: int) -> list[Any]:
    """Return the ids of `count` runs of a project, from all over its history."""
    found = checks.rows(
        stack,
        "SELECT id FROM runs.runs WHERE project_id = %s ORDER BY hashtext(id::text) LIMIT %s",
        [project, count],
    )
    return [str(row[0]) for row in found]


def _common(kind: Kind, status: Run.Status.ValueType, sequence: int) -> bytes:
    """Return what all runs of a kind are at a sequence, but for what a row says itself."""
    run = Run(
        playbook_id=kind.playbook_id,
        run_type=kind.run_type,
        status=status,
        rules_hash="fedcba9876543210",
        meta=RunMeta(
            sample_size=3 if kind.run_type == Run.PREVIEW_GENERATE else None,
            deadline_seconds=600,
            rules=PlaybookRules(enabled=True, prefix="Buy ", max_length=60, forbidden_phrases=["cheap"]),
        ),
        created_by_user_id="user-1",
        sequence=sequence,
        attempt=min(sequence - 1, 1),
    )
    if sequence == EVENTS:
        run.progress.CopyFrom(RunProgress(completed=3, total=3))
        if status == Run.SUCCEEDED:
            run.draft_id = "018f2b8e-1111-7222-8333-444455556666"
            run.result.CopyFrom(RunResult(affected_total=120, draft_generated=3))
        elif status != Run.CANCELLED:
            run.error_code, run.error_message = "AI_TIMEOUT", "The AI provider did not answer within 60 seconds. Retry."
    return run.SerializeToString()
