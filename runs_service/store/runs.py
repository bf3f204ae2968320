# ruff: noqa: S608 - statements are put together from constants only
"""Runs as they are now."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from playbooks.runs.v1.run_pb2 import Run

from runs_service.messages import Call, NewRun
from runs_service.predicates import HOLDS_KEY, PLAYBOOKS, RUN_TYPES, STATUSES
from runs_service.store.records import Filters, Stored
from runs_service.store.version_cache import Version, VersionCache
from servicekit.postgres.database import Database, Querier

CREATE_ROUNDS = 10  # how often a key may be freed and taken again while we look


class Runs:
    """Creates and reads runs."""

    def __init__(self, database: Database, versions: VersionCache, *, reconcile_after: timedelta) -> None:
        self._database = database
        self._versions = versions
        self._reconcile_after = reconcile_after

    # Creating

    async def create(self, wanted: Sequence[NewRun]) -> list[Stored]:
        """Insert those of `wanted` whose key is free; return, in order, what each led to.

        The unique index decides, never a read before the write, so concurrent duplicates make one run.
        """
        outcomes: dict[int, Stored] = {}
        for _ in range(CREATE_ROUNDS):
            # Every process inserts in the same order, so that two batches never wait for each other.
            pending = sorted(
                (i for i in range(len(wanted)) if i not in outcomes),
                key=lambda i: (wanted[i].run.project_id, wanted[i].dedup_key),
            )
            if not pending:
                break
            inserted = await self.insert(self._database, [wanted[i] for i in pending])
            self.remember(wanted[i] for i in pending if wanted[i].run.id in inserted)
            taken = [i for i in pending if wanted[i].run.id not in inserted]
            outcomes |= {i: Stored(wanted[i].run, True, True) for i in pending if i not in taken}
            if taken:
                found = await self.holding_key(self._database, [wanted[i] for i in taken])
                outcomes |= {i: found[wanted[i].run.id] for i in taken if wanted[i].run.id in found}
        return [outcomes[i] for i in range(len(wanted))]

    _INSERT = f"""
    WITH inserted AS (
        INSERT INTO runs.runs (id, project_id, playbook_id, run_type, scope_id, status, created_at, run, request_id,
                               traceparent, dedup_key, frees_on_success, fingerprint, deadline_at, reconcile_at)
        SELECT id, project_id, playbook_id, run_type, scope_id, 'QUEUED', created_at, run, request_id,
               traceparent, dedup_key, frees_on_success, fingerprint, deadline_at, now() + %(reconcile_after)s
        FROM unnest(CAST(%(ids)b AS uuid[]), CAST(%(projects)b AS text[]), CAST(%(playbooks)b AS text[]),
                    CAST(%(types)b AS text[]), CAST(%(scopes)b AS text[]), CAST(%(created)b AS timestamptz[]),
                    CAST(%(runs)b AS bytea[]), CAST(%(requests)b AS text[]),
                    CAST(%(traceparents)b AS text[]), CAST(%(keys)b AS text[]),
                    CAST(%(frees)b AS boolean[]), CAST(%(fingerprints)b AS bytea[]),
                    CAST(%(deadlines)b AS timestamptz[]))
             AS wanted (id, project_id, playbook_id, run_type, scope_id, created_at, run, request_id,
                        traceparent, dedup_key, frees_on_success, fingerprint, deadline_at)
        ON CONFLICT (project_id, dedup_key) WHERE {HOLDS_KEY} DO NOTHING
        RETURNING id, run, project_id
    ), history AS (
        INSERT INTO runs.run_events (run_id, sequence, run, project_id) SELECT id, 1, run, project_id FROM inserted
    )
    SELECT CAST(id AS text) AS id FROM inserted"""

    async def insert(self, querier: Querier, wanted: Sequence[NewRun]) -> set[str]:
        """Insert those of `wanted`, sorted by project and key, whose key is free; return their ids."""
        parameters = {
            "ids": [w.run.id for w in wanted],
            "projects": [w.run.project_id for w in wanted],
            "playbooks": [w.run.playbook_id for w in wanted],
            "types": [Run.Type.Name(w.run.run_type) for w in wanted],
            "scopes": [w.run.scope_id for w in wanted],
            "created": [w.created_at for w in wanted],
            "runs": [w.run.SerializeToString() for w in wanted],
            "requests": [w.request_id for w in wanted],
            "traceparents": [w.traceparent or None for w in wanted],
            "keys": [w.dedup_key for w in wanted],
            "frees": [w.frees_on_success for w in wanted],
            "fingerprints": [w.fingerprint for w in wanted],
            "deadlines": [w.deadline for w in wanted],
            "reconcile_after": self._reconcile_after,
        }
        return {row.id for row in await querier.fetch_all(self._INSERT, parameters)}

    def remember(self, committed: Iterable[NewRun]) -> None:
        """Cache runs that were inserted: their first change need not read them."""
        self._versions.put(Version(new.run, 0) for new in committed)

    _HOLDING_KEY = f"""
    SELECT wanted.id AS wanted_id, runs.run, runs.fingerprint
    FROM unnest(CAST(%(ids)b AS uuid[]), CAST(%(projects)b AS text[]), CAST(%(keys)b AS text[]))
         AS wanted (id, project_id, dedup_key)
    JOIN runs.runs ON runs.project_id = wanted.project_id AND runs.dedup_key = wanted.dedup_key
    WHERE {HOLDS_KEY}"""

    async def holding_key(self, querier: Querier, wanted: Sequence[NewRun]) -> dict[str, Stored]:
        """Return the runs that hold the keys of `wanted`, by the ids of these."""
        parameters = {
            "ids": [w.run.id for w in wanted],
            "projects": [w.run.project_id for w in wanted],
            "keys": [w.dedup_key for w in wanted],
        }
        rows = {str(row.wanted_id): row for row in await querier.fetch_all(self._HOLDING_KEY, parameters)}
        return {
            w.run.id: Stored(Run.FromString(row.run), False, bytes(row.fingerprint) == w.fingerprint)
            for w in wanted
            if (row := rows.get(w.run.id))
        }

    # Reading

    _ORIGINAL = """
    SELECT first.run AS original, runs.run, request_id, fingerprint, dedup_key, frees_on_success, created_at
    FROM runs.runs JOIN runs.run_events AS first ON first.run_id = runs.id AND first.sequence = 1
    WHERE runs.id = CAST(%(id)s AS uuid) AND runs.project_id = %(project)s"""

    async def original(self, project_id: str, run_id: str) -> tuple[NewRun, Run] | None:
        """Return a project's run as it was asked for, and as it is now; None when it is not there."""
        row = await self._database.fetch_optional(self._ORIGINAL, {"project": project_id, "id": run_id})
        if row is None:
            return None
        asked = NewRun(
            run=Run.FromString(row.original),
            request_id=row.request_id,
            fingerprint=bytes(row.fingerprint),
            dedup_key=row.dedup_key,
            frees_on_success=row.frees_on_success,
            created_at=row.created_at,
        )
        return asked, Run.FromString(row.run)

    _GET = "SELECT run FROM runs.runs WHERE id = CAST(%(id)s AS uuid) AND project_id = %(project)s"

    async def get(self, project_id: str, run_id: str) -> Run | None:
        """Return a project's run, or None."""
        row = await self._database.fetch_optional(self._GET, {"project": project_id, "id": run_id})
        return Run.FromString(row.run) if row else None

    _QUEUED = """
    SELECT count(*) AS number FROM (
        SELECT 1
        FROM unnest(CAST(%(playbooks)b AS text[])) AS playbook (name)
        CROSS JOIN unnest(CAST(%(types)b AS text[])) AS type (name)
        CROSS JOIN LATERAL (
            SELECT 1 FROM runs.runs
            WHERE project_id = %(project)s AND playbook_id = playbook.name AND run_type = type.name
              AND status = 'QUEUED'
            LIMIT %(limit)s
        ) AS found
        LIMIT %(limit)s
    ) AS queued"""

    async def queued(self, project_id: str, limit: int) -> int:
        """Return how many runs of a project are QUEUED, or `limit` if there are more."""
        parameters = {
            "project": project_id,
            "playbooks": list(PLAYBOOKS),
            "types": list(RUN_TYPES),
            "limit": limit,
        }
        row = await self._database.fetch_one(self._QUEUED, parameters)
        return int(row.number)

    _PAGE = """
    SELECT run FROM runs.runs WHERE project_id = %(project_id)s {conditions} {older}
    ORDER BY created_at DESC, id DESC LIMIT %(limit)s OFFSET %(offset)s"""

    _OF_CALL = " AND id = (SELECT run_id FROM runs.calls WHERE project_id = %(project_id)s AND name = %(call)s)"

    # A kind is a playbook, a type and a status. Indexes have the newest runs of each at hand: runs_by_kind those of a
    # project, runs_by_scope_and_kind those of a scope. A page is put together out of these: it costs the same for every
    # filter, however few runs it finds. By an array: the generic plan takes a LIMIT for a tenth of what there is, and
    # would join the page with all runs.
    _PAGE_OF_KINDS = """
    SELECT run FROM runs.runs
    WHERE id = ANY(ARRAY(
        SELECT found.id
        FROM unnest(CAST(%(playbook_id)b AS text[])) AS playbook (name)
        CROSS JOIN unnest(CAST(%(run_type)b AS text[])) AS type (name)
        CROSS JOIN unnest(CAST(%(status)b AS text[])) AS state (name)
        CROSS JOIN LATERAL (
            SELECT id, created_at FROM runs.runs
            WHERE project_id = %(project_id)s AND playbook_id = playbook.name AND run_type = type.name
              AND status = state.name {scope} {older}
            ORDER BY created_at DESC, id DESC LIMIT %(reach)s
        ) AS found
        ORDER BY found.created_at DESC, found.id DESC LIMIT %(limit)s OFFSET %(offset)s
    ))
    ORDER BY created_at DESC, id DESC"""

    async def page(
        self,
        filters: Filters,
        *,
        limit: int,
        offset: int = 0,
        before: tuple[datetime, UUID] | None = None,
        querier: Querier | None = None,
    ) -> list[Run]:
        """Return up to `limit` runs, newest first, after skipping `offset`; only those older than `before`.

        `querier`: where the statement runs, if not by itself.
        """
        parameters: dict[str, object] = {"project_id": filters.project_id, "limit": limit, "offset": offset}
        older = ""
        if before is not None:
            older = "AND (created_at, id) < (%(created_at)s, %(id)s)"
            parameters |= {"created_at": before[0], "id": before[1]}
        # Only constants are put together; values from outside are parameters.
        kinds = {"playbook_id": PLAYBOOKS, "run_type": RUN_TYPES, "status": STATUSES}
        wanted = {column: value for column in kinds if (value := getattr(filters, column))}
        scope = ""
        if filters.scope_id:
            scope = "AND scope_id = %(scope_id)s"
            parameters["scope_id"] = filters.scope_id
        if filters.retry_of or not (wanted or scope):
            conditions = scope + "".join(f" AND {column} = %({column})s" for column in wanted)
            parameters |= wanted
            if filters.retry_of:
                conditions += self._OF_CALL
                parameters["call"] = Call.retry_name(filters.retry_of)
            statement = self._PAGE.format(conditions=conditions, older=older)
        else:
            parameters |= {column: [wanted[column]] if column in wanted else list(kinds[column]) for column in kinds}
            parameters["reach"] = offset + limit
            statement = self._PAGE_OF_KINDS.format(scope=scope, older=older)
        return [Run.FromString(row.run) for row in await (querier or self._database).fetch_all(statement, parameters)]
