"""Every SQL statement of runs_service."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run
from sqlalchemy import text

from runs_service.changing import Changes, Changing
from runs_service.messages import NewRun
from runs_service.models import ACTIVE, HOLDS_KEY, PLAYBOOKS, RUN_TYPES, STATUSES, UNDISPATCHED
from runs_service.recent import RecentRuns, Version
from runs_service.transitions import is_terminal
from servicekit.database import Connection, Database
from servicekit.failpoints import FailPoint, reached

CREATE_ROUNDS = 10  # how often a key may be freed and taken again while we look


@dataclass(frozen=True)
class Stored:
    """The run that a NewRun led to."""

    run: Run
    created: bool
    same_request: bool


@dataclass(frozen=True)
class Dispatchable:
    """A run to be handed to the executor, and the request it came from."""

    run: Run
    request_id: str


@dataclass(frozen=True)
class _Written:
    history: list[Run]
    refused: frozenset[str]


@dataclass(frozen=True)
class Filters:
    """Which runs to list; an empty string means all."""

    project_id: str
    playbook_id: str = ""
    run_type: str = ""
    scope_id: str = ""
    status: str = ""


class RunStore:
    """The runs and their history. Takes the database and the silence after which a run is reconciled."""

    def __init__(self, database: Database, *, reconcile_after: timedelta) -> None:
        self._database = database
        self._reconcile_after = reconcile_after
        self._recent = RecentRuns()

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
            inserted = await self._insert([wanted[i] for i in pending])
            self._recent.put(Version(wanted[i].run, 0) for i in pending if wanted[i].run.id in inserted)
            taken = [i for i in pending if wanted[i].run.id not in inserted]
            outcomes |= {i: Stored(wanted[i].run, True, True) for i in pending if i not in taken}
            if taken:
                held = await self._holding_key([wanted[i] for i in taken])
                outcomes |= {i: held[wanted[i].run.id] for i in taken if wanted[i].run.id in held}
        return [outcomes[i] for i in range(len(wanted))]

    async def _insert(self, wanted: Sequence[NewRun]) -> set[str]:
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_INSERT, _columns(wanted) | {"reconcile_after": self._reconcile_after})
            return {str(row.id) for row in rows}

    async def _holding_key(self, wanted: Sequence[NewRun]) -> dict[str, Stored]:
        by_key = {
            "ids": [w.run.id for w in wanted],
            "projects": [w.run.project_id for w in wanted],
            "keys": [w.dedup_key for w in wanted],
        }
        fingerprints = {w.run.id: w.fingerprint for w in wanted}
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_HOLDING_KEY, by_key)
            return {
                str(row.wanted_id): Stored(
                    Run.FromString(row.run), False, bytes(row.fingerprint) == fingerprints[str(row.wanted_id)]
                )
                for row in rows
            }

    async def original(self, project_id: str, run_id: str) -> tuple[NewRun, Run] | None:
        """Return a project's run as it was asked for, and as it is now; None when it is not there."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_ORIGINAL, {"project": project_id, "id": run_id})).one_or_none()
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

    # Reading

    async def get(self, project_id: str, run_id: str) -> Run | None:
        """Return a project's run, or None."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_GET, {"project": project_id, "id": run_id})).one_or_none()
        return Run.FromString(row.run) if row else None

    async def page(
        self, filters: Filters, *, limit: int, offset: int, before: tuple[datetime, UUID] | None
    ) -> list[Run]:
        """Return up to `limit` runs, newest first, after skipping `offset`; only those older than `before`."""
        parameters: dict[str, object] = {"project_id": filters.project_id, "limit": limit, "offset": offset}
        older = ""
        if before is not None:
            older = "AND (created_at, id) < (:created_at, :id)"
            parameters |= {"created_at": before[0], "id": before[1]}
        kinds = {"playbook_id": PLAYBOOKS, "run_type": RUN_TYPES, "status": STATUSES}
        wanted = {column: value for column in kinds if (value := getattr(filters, column))}
        if filters.scope_id or not wanted:
            if filters.scope_id:
                wanted["scope_id"] = filters.scope_id
            parameters |= wanted
            statement = _PAGE.format(conditions="".join(f"AND {column} = :{column} " for column in wanted), older=older)
        else:
            parameters |= {column: [wanted[column]] if column in wanted else list(kinds[column]) for column in kinds}
            parameters["reach"] = offset + limit
            statement = _PAGE_OF_KINDS.format(older=older)
        async with self._database.autocommit() as connection:
            # What is put together is ours; only values come from outside.
            rows = await connection.execute(text(statement), parameters)
            return [Run.FromString(row.run) for row in rows]

    async def changes_after(self, positions: dict[str, int], *, limit: int) -> list[Run]:
        """Return, for each run id, what came after the sequence given with it: by run, in order of sequence.

        At most `limit` changes a run.
        """
        async with self._database.autocommit() as connection:
            rows = await connection.execute(
                _CHANGES_AFTER, {"ids": list(positions), "afters": list(positions.values()), "limit": limit}
            )
            return [Run.FromString(row.run) for row in rows]

    async def oldest_sequence(self, run_id: str) -> int | None:
        """Return the oldest sequence of a run that is kept, or None."""
        async with self._database.autocommit() as connection:
            oldest: int | None = (await connection.execute(_OLDEST, {"id": run_id})).scalar_one()
            return oldest

    # Delivering

    async def mark_dispatched(self, run_ids: Sequence[str]) -> None:
        """Note that these runs were handed to the broker, or to the executor itself."""
        async with self._database.autocommit() as connection:
            await connection.execute(_MARK_DISPATCHED, {"ids": list(run_ids), "reconcile_after": self._reconcile_after})

    async def undispatched(self, *, older_than: timedelta, limit: int) -> list[Dispatchable]:
        """Return runs that were committed a while ago and not dispatched since: the outbox."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_UNDISPATCHED, {"older_than": older_than, "limit": limit})
            return [Dispatchable(Run.FromString(row.run), row.request_id) for row in rows]

    async def take_silent(self, *, limit: int) -> list[Dispatchable]:
        """Return dispatched runs that have been silent for too long; they are not due again for a while."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_TAKE_SILENT, {"reconcile_after": self._reconcile_after, "limit": limit})
            return [Dispatchable(Run.FromString(row.run), row.request_id) for row in rows]

    # Changing

    async def change(self, events: Sequence[RunEvent], changes: Changes) -> list[Run]:
        """Apply `events`, in order; return each change of a run that they made.

        `changes` says what an event makes of a run. Every run changes in one transaction and under its row's lock, so
        sequences have no gaps; an event whose number was passed already is ignored.
        """
        known = {run_id: v for run_id in {e.run_id for e in events} if (v := self._recent.get(run_id)) is not None}
        written = await self._change_known(known, [event for event in events if event.run_id in known], changes)
        done = known.keys() - written.refused
        rest = [event for event in events if event.run_id not in done]
        return written.history + (await self._change_locked(rest, changes) if rest else [])

    async def _change_known(
        self, known: Mapping[str, Version], events: Sequence[RunEvent], changes: Changes
    ) -> _Written:
        """Write on top of what this process wrote last, with one statement; refused where that is not so any more."""
        work = Changing(known)
        work.apply(events, changes)
        reached(FailPoint.RUNS_IN_CHANGE)
        if not work.changed:
            return _Written([], frozenset())
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_CHANGE, self._parameters(work, stop=False))
        fresh = {str(run_id) for run_id in rows.scalars()}
        refused = frozenset(work.changed.keys() - fresh)
        self._recent.drop(refused)
        self._remember(work.changed[run_id] for run_id in fresh)
        return _Written([run for run in work.history if run.id in fresh], refused)

    async def _change_locked(self, events: Sequence[RunEvent], changes: Changes) -> list[Run]:
        async with self._database.transaction() as connection:
            work = Changing(await self._lock(connection, {event.run_id for event in events}))
            work.apply(events, changes)
            if work.changed:
                await connection.execute(_CHANGE, self._parameters(work, stop=False))
            reached(FailPoint.RUNS_IN_CHANGE)
        self._remember(work.changed.values())
        return work.history

    def _remember(self, versions: Iterable[Version]) -> None:
        for version in versions:
            if is_terminal(version.run.status):
                self._recent.drop([version.run.id])
            else:
                self._recent.put([version])

    async def end(self, run_ids: Sequence[str], changes: Callable[[Run], Sequence[Run]]) -> list[Run]:
        """End runs without a word from the executor, in one transaction; return the changes that this made.

        `changes` says what becomes of each. The executor is still to be told: their stop stays pending.
        """
        async with self._database.transaction() as connection:
            work = Changing(await self._lock(connection, set(run_ids)))
            work.end(changes)
            if work.changed:
                await connection.execute(_CHANGE, self._parameters(work, stop=True))
        self._recent.drop(work.changed)
        return work.history

    async def request_stop(self, run_id: str) -> None:
        """Note that a run shall not go on, until the executor has been told."""
        async with self._database.autocommit() as connection:
            await connection.execute(_REQUEST_STOP, {"id": run_id})

    async def stops(self, *, limit: int) -> list[Dispatchable]:
        """Return runs of which the executor is still to be told that they shall not go on."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_STOPS, {"limit": limit})
            return [Dispatchable(Run.FromString(row.run), row.request_id) for row in rows]

    async def mark_stopped(self, run_ids: Sequence[str]) -> None:
        """Note that the executor has been told."""
        async with self._database.autocommit() as connection:
            await connection.execute(_MARK_STOPPED, {"ids": list(run_ids)})

    async def overdue(self, *, margin: timedelta, limit: int) -> list[str]:
        """Return the ids of runs that have not ended long after their deadline."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_OVERDUE, {"margin": margin, "limit": limit})
            return [str(row.id) for row in rows]

    async def _lock(self, connection: Connection, run_ids: set[str]) -> dict[str, Version]:
        rows = await connection.execute(_LOCK, {"ids": sorted(run_ids)})
        return {str(row.id): Version(Run.FromString(row.run), row.event_number) for row in rows}

    def _parameters(self, work: Changing, *, stop: bool) -> dict[str, object]:
        # By id, so that two processes that change the same runs do not wait for each other in a circle.
        changed = [(work.before[run_id], version) for run_id, version in sorted(work.changed.items())]
        return {
            "ids": [after.run.id for _, after in changed],
            "old_numbers": [before.event_number for before, _ in changed],
            "old_statuses": [Run.Status.Name(before.run.status) for before, _ in changed],
            "numbers": [after.event_number for _, after in changed],
            "statuses": [Run.Status.Name(after.run.status) for _, after in changed],
            "scopes": [after.run.scope_id for _, after in changed],
            "runs": [after.run.SerializeToString() for _, after in changed],
            "stop": stop,
            "reconcile_after": self._reconcile_after,
            "event_ids": [run.id for run in work.history],
            "sequences": [run.sequence for run in work.history],
            "event_runs": [run.SerializeToString() for run in work.history],
        }


def _columns(wanted: Sequence[NewRun]) -> dict[str, list[object]]:
    return {
        "ids": [w.run.id for w in wanted],
        "projects": [w.run.project_id for w in wanted],
        "playbooks": [w.run.playbook_id for w in wanted],
        "types": [Run.Type.Name(w.run.run_type) for w in wanted],
        "scopes": [w.run.scope_id for w in wanted],
        "created": [w.created_at for w in wanted],
        "runs": [w.run.SerializeToString() for w in wanted],
        "requests": [w.request_id for w in wanted],
        "keys": [w.dedup_key for w in wanted],
        "frees": [w.frees_on_success for w in wanted],
        "fingerprints": [w.fingerprint for w in wanted],
        "deadlines": [w.deadline for w in wanted],
    }


_INSERT = text(f"""
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
""")  # noqa: S608

_HOLDING_KEY = text(f"""
    SELECT wanted.id AS wanted_id, runs.run, runs.fingerprint
    FROM unnest(CAST(:ids AS uuid[]), CAST(:projects AS text[]), CAST(:keys AS text[]))
         AS wanted (id, project_id, dedup_key)
    JOIN runs.runs ON runs.project_id = wanted.project_id AND runs.dedup_key = wanted.dedup_key
    WHERE {HOLDS_KEY}
""")  # noqa: S608

_GET = text("SELECT run FROM runs.runs WHERE id = CAST(:id AS uuid) AND project_id = :project")

_PAGE = """
    SELECT run FROM runs.runs WHERE project_id = :project_id {conditions} {older}
    ORDER BY created_at DESC, id DESC LIMIT :limit OFFSET :offset
"""

# A kind is a playbook, a type and a status. The index runs_by_kind has the newest runs of each at hand; a page is put
# together out of these: it costs the same whatever is asked for and however rare it is.
_PAGE_OF_KINDS = """
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

_ORIGINAL = text("""
    SELECT first.run AS original, runs.run, request_id, fingerprint, dedup_key, frees_on_success, created_at
    FROM runs.runs JOIN runs.run_events AS first ON first.run_id = runs.id AND first.sequence = 1
    WHERE runs.id = CAST(:id AS uuid) AND project_id = :project
""")

_CHANGES_AFTER = text("""
    SELECT change.run
    FROM unnest(CAST(:ids AS uuid[]), CAST(:afters AS bigint[])) AS watched (run_id, after)
    CROSS JOIN LATERAL (
        SELECT run_id, sequence, run FROM runs.run_events
        WHERE run_id = watched.run_id AND sequence > watched.after
        ORDER BY sequence LIMIT :limit
    ) AS change
    ORDER BY change.run_id, change.sequence
""")

_OLDEST = text("SELECT min(sequence) FROM runs.run_events WHERE run_id = CAST(:id AS uuid)")

_MARK_DISPATCHED = text("""
    UPDATE runs.runs SET dispatched_at = now(), reconcile_at = now() + :reconcile_after
    WHERE id = ANY(CAST(:ids AS uuid[])) AND dispatched_at IS NULL
""")

_UNDISPATCHED = text(f"""
    SELECT run, request_id FROM runs.runs
    WHERE {UNDISPATCHED} AND created_at < now() - :older_than
    ORDER BY created_at LIMIT :limit
""")  # noqa: S608

_TAKE_SILENT = text(f"""
    UPDATE runs.runs SET reconcile_at = now() + :reconcile_after
    WHERE id IN (
        SELECT id FROM runs.runs
        WHERE {ACTIVE} AND reconcile_at <= now() AND dispatched_at IS NOT NULL
        ORDER BY reconcile_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    RETURNING run, request_id
""")  # noqa: S608

_REQUEST_STOP = text(f"UPDATE runs.runs SET stop_pending = true WHERE id = CAST(:id AS uuid) AND {ACTIVE}")  # noqa: S608

_STOPS = text("SELECT run, request_id FROM runs.runs WHERE stop_pending ORDER BY id LIMIT :limit")

_MARK_STOPPED = text("UPDATE runs.runs SET stop_pending = false WHERE id = ANY(CAST(:ids AS uuid[]))")

_OVERDUE = text(f"""
    SELECT id FROM runs.runs WHERE {ACTIVE} AND deadline_at < now() - :margin ORDER BY deadline_at LIMIT :limit
""")  # noqa: S608

_LOCK = text("""
    SELECT id, event_number, run FROM runs.runs WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE
""")

_CHANGE = text("""
    WITH changed AS (
        UPDATE runs.runs
        SET event_number = heard.event_number, status = heard.status, scope_id = heard.scope_id, run = heard.run,
            dispatched_at = coalesce(dispatched_at, now()), reconcile_at = now() + :reconcile_after,
            stop_pending = stop_pending OR :stop
        FROM unnest(CAST(:ids AS uuid[]), CAST(:old_numbers AS bigint[]), CAST(:old_statuses AS text[]),
                    CAST(:numbers AS bigint[]), CAST(:statuses AS text[]),
                    CAST(:scopes AS text[]), CAST(:runs AS bytea[]))
             AS heard (id, old_number, old_status, event_number, status, scope_id, run)
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
