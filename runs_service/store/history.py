# ruff: noqa: S608 - statements are put together from constants only
"""The history of runs: every change of a run writes its next version, and the run as it is now."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run

from runs_service import transitions
from runs_service.store.change_set import ChangeSet
from runs_service.store.records import Changed
from runs_service.store.usage import COUNT_ENDED, columns_of
from runs_service.store.version_cache import Version, VersionCache
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Connection, Database


class Followed(NamedTuple):
    """What came after positions in the histories of runs, and the ids of the runs that were deleted."""

    changes: list[Run]
    deleted: list[str]


@dataclass(frozen=True)
class _Written:
    changes: Changed
    refused: frozenset[str] = frozenset()  # ids of runs that another process changed


class History:
    """Changes runs and reads how they changed.

    A run changes under its row's lock, so its sequences have no gaps. What changed is written in one transaction.
    """

    def __init__(self, database: Database, versions: VersionCache, *, reconcile_after: timedelta) -> None:
        self._database = database
        self._versions = versions
        self._reconcile_after = reconcile_after

    # Changing

    async def apply_events(self, events: Sequence[RunEvent], now: datetime) -> Changed:
        """Apply `events`, in order; return each change of a run that they made, and the events of another project.

        ChangeSet.apply says what is ignored.
        """
        known = {run_id: v for run_id in {e.run_id for e in events} if (v := self._versions.get(run_id)) is not None}
        written = await self._change_known(known, [event for event in events if event.run_id in known], now)
        done = known.keys() - written.refused
        rest = [event for event in events if event.run_id not in done]
        if not rest:
            return written.changes
        locked = await self._change_locked(rest, now)
        foreign = [event for event in written.changes.foreign if event.run_id in done]
        return Changed(written.changes.history + locked.history, foreign + locked.foreign)

    async def cancel_queued(self, run_ids: Sequence[str], now: datetime) -> list[Run]:
        """Cancel those of the runs that are queued; return the changes. Their stops are pending then."""
        return await self._end(run_ids, transitions.cancelled, now)

    async def fail_overdue(self, run_ids: Sequence[str], now: datetime) -> list[Run]:
        """Fail those of the runs that have not ended, because of their deadline; return the changes.

        Their stops are pending then.
        """
        return await self._end(run_ids, transitions.overdue, now)

    async def _change_known(self, known: Mapping[str, Version], events: Sequence[RunEvent], now: datetime) -> _Written:
        """Write on top of the cached versions, with one statement; refused where another process changed the run."""
        changes = ChangeSet(known)
        changes.apply(events, now)
        reached(FailPoint.RUNS_IN_CHANGE)
        if not changes.changed:
            return _Written(Changed([], changes.foreign))
        rows = await self._database.fetch_all(*self._write(changes, stop=False))
        fresh = {str(row.id) for row in rows}
        refused = frozenset(changes.changed.keys() - fresh)
        self._versions.drop(refused)
        self._remember(changes.changed[run_id] for run_id in fresh)
        return _Written(Changed([run for run in changes.history if run.id in fresh], changes.foreign), refused)

    async def _change_locked(self, events: Sequence[RunEvent], now: datetime) -> Changed:
        async with self._database.transaction() as connection:
            changes = ChangeSet(await self._lock(connection, {event.run_id for event in events}))
            changes.apply(events, now)
            if changes.changed:
                await connection.execute(*self._write(changes, stop=False))
            reached(FailPoint.RUNS_IN_CHANGE)
        self._remember(changes.changed.values())
        return Changed(changes.history, changes.foreign)

    async def _end(
        self, run_ids: Sequence[str], step: Callable[[Run, datetime], list[Run]], now: datetime
    ) -> list[Run]:
        async with self._database.transaction() as connection:
            changes = ChangeSet(await self._lock(connection, set(run_ids)))
            changes.end(step, now)
            if changes.changed:
                await connection.execute(*self._write(changes, stop=True))
        self._versions.drop(changes.changed)
        return changes.history

    _LOCK = """
    SELECT id, event_number, run FROM runs.runs WHERE id = ANY(CAST(%(ids)b AS uuid[])) ORDER BY id FOR UPDATE"""

    async def _lock(self, connection: Connection, run_ids: set[str]) -> dict[str, Version]:
        rows = await connection.fetch_all(self._LOCK, {"ids": sorted(run_ids)})
        return {str(row.id): Version(Run.FromString(row.run), row.event_number) for row in rows}

    def _remember(self, versions: Iterable[Version]) -> None:
        for version in versions:
            if transitions.is_terminal(version.run.status):
                self._versions.drop([version.run.id])
            else:
                self._versions.put([version])

    _CHANGE = """
    WITH locked AS MATERIALIZED (
        -- In order, so that two processes that change the same runs do not wait for each other in a circle.
        SELECT id FROM runs.runs WHERE id = ANY(CAST(%(ids)b AS uuid[])) ORDER BY id FOR UPDATE
    ), changed AS (
        UPDATE runs.runs
        SET event_number = after.event_number, status = after.status, scope_id = after.scope_id, run = after.run,
            dispatched_at = coalesce(dispatched_at, now()), reconcile_at = now() + %(reconcile_after)s,
            stop_pending = stop_pending OR %(stop)s
        FROM unnest(CAST(%(ids)b AS uuid[]), CAST(%(old_numbers)b AS bigint[]), CAST(%(old_statuses)b AS text[]),
                    CAST(%(numbers)b AS bigint[]), CAST(%(statuses)b AS text[]),
                    CAST(%(scopes)b AS text[]), CAST(%(runs)b AS bytea[]))
             AS after (id, old_number, old_status, event_number, status, scope_id, run)
             JOIN locked USING (id)
        WHERE runs.id = after.id AND runs.event_number = after.old_number AND runs.status = after.old_status
        RETURNING runs.id, runs.project_id, runs.run_type
    ), history AS (
        INSERT INTO runs.run_events (run_id, sequence, run, project_id)
        SELECT step.*, changed.project_id
        FROM unnest(CAST(%(event_ids)b AS uuid[]), CAST(%(sequences)b AS bigint[]),
                    CAST(%(event_runs)b AS bytea[])) AS step (run_id, sequence, run)
             JOIN changed ON changed.id = step.run_id
    )"""
    _WRITE = f"{_CHANGE} SELECT id FROM changed"
    _WRITE_ENDS = f"{_CHANGE}, counted AS ({COUNT_ENDED}) SELECT id FROM changed"

    def _write(self, changes: ChangeSet, *, stop: bool) -> tuple[str, dict[str, object]]:
        """Return the statement that writes changes, and its parameters. It returns the ids of the runs it changed."""
        changed = [(changes.before[run_id], version) for run_id, version in changes.changed.items()]
        parameters = {
            "ids": [after.run.id for _, after in changed],
            "old_numbers": [before.event_number for before, _ in changed],
            "old_statuses": [Run.Status.Name(before.run.status) for before, _ in changed],
            "numbers": [after.event_number for _, after in changed],
            "statuses": [Run.Status.Name(after.run.status) for _, after in changed],
            "scopes": [after.run.scope_id for _, after in changed],
            "runs": [after.run.SerializeToString() for _, after in changed],
            "stop": stop,
            "reconcile_after": self._reconcile_after,
            "event_ids": [run.id for run in changes.history],
            "sequences": [run.sequence for run in changes.history],
            "event_runs": [run.SerializeToString() for run in changes.history],
        }
        ended = [after.run for before, after in changed if _ends(before.run, after.run)]
        if not ended:
            return self._WRITE, parameters
        return self._WRITE_ENDS, parameters | columns_of(ended)

    # Reading

    _AFTER = """
    SELECT CAST(watched.run_id AS text) AS run_id, change.run
    FROM unnest(CAST(%(ids)b AS uuid[]), CAST(%(afters)b AS bigint[])) AS watched (run_id, after)
    LEFT JOIN LATERAL (
        SELECT run_id, sequence, run FROM runs.run_events
        WHERE run_id = watched.run_id AND sequence > watched.after
        ORDER BY sequence LIMIT %(limit)s
    ) AS change ON true
    WHERE change.run IS NOT NULL OR NOT EXISTS (SELECT FROM runs.runs WHERE id = watched.run_id)
    ORDER BY change.run_id, change.sequence"""

    async def after(self, positions: Mapping[str, int], *, limit: int) -> Followed:
        """Return, for each run id, what came after the sequence given with it: by run, in order of sequence; and which
        of the runs are not there any more.

        At most `limit` changes a run.
        """
        parameters = {"ids": list(positions), "afters": list(positions.values()), "limit": limit}
        found = await self._database.fetch_all(self._AFTER, parameters)
        return Followed(
            [Run.FromString(row.run) for row in found if row.run is not None],
            [row.run_id for row in found if row.run is None],
        )

    _OLDEST = "SELECT min(sequence) AS sequence FROM runs.run_events WHERE run_id = CAST(%(id)s AS uuid)"

    async def oldest_sequence(self, run_id: str) -> int | None:
        """Return the oldest sequence of a run that is kept, or None."""
        oldest: int | None = (await self._database.fetch_one(self._OLDEST, {"id": run_id})).sequence
        return oldest


def _ends(before: Run, after: Run) -> bool:
    # A run that has ended may be written once more, with the number of an event that said nothing new.
    return transitions.is_terminal(after.status) and not transitions.is_terminal(before.status)
