"""The runs and their history, as they are stored."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from playbooks.executor.v1.job_pb2 import RunEvent
from playbooks.runs.v1.run_pb2 import Run
from sqlalchemy import text

from runs_service.messages import NewRun
from runs_service.models import PLAYBOOKS, RUN_TYPES, STATUSES
from runs_service.store import statements
from runs_service.store.change_set import Changes, Changing
from runs_service.store.records import Changed, Dispatchable, Filters, Stored
from runs_service.store.version_cache import RecentRuns, Version
from runs_service.transitions import is_terminal
from servicekit.failpoints import FailPoint, reached
from servicekit.postgres.database import Connection, Database

CREATE_ROUNDS = 10  # how often a key may be freed and taken again while we look


@dataclass(frozen=True)
class _Written:
    changes: Changed
    refused: frozenset[str] = frozenset()


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
            rows = await connection.execute(
                statements.INSERT, _columns(wanted) | {"reconcile_after": self._reconcile_after}
            )
            return {str(row.id) for row in rows}

    async def _holding_key(self, wanted: Sequence[NewRun]) -> dict[str, Stored]:
        by_key = {
            "ids": [w.run.id for w in wanted],
            "projects": [w.run.project_id for w in wanted],
            "keys": [w.dedup_key for w in wanted],
        }
        fingerprints = {w.run.id: w.fingerprint for w in wanted}
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statements.HOLDING_KEY, by_key)
            return {
                str(row.wanted_id): Stored(
                    Run.FromString(row.run), False, bytes(row.fingerprint) == fingerprints[str(row.wanted_id)]
                )
                for row in rows
            }

    async def original(self, project_id: str, run_id: str) -> tuple[NewRun, Run] | None:
        """Return a project's run as it was asked for, and as it is now; None when it is not there."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statements.ORIGINAL, {"project": project_id, "id": run_id})).one_or_none()
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
            row = (await connection.execute(statements.GET, {"project": project_id, "id": run_id})).one_or_none()
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
            statement = statements.PAGE.format(
                conditions="".join(f"AND {column} = :{column} " for column in wanted), older=older
            )
        else:
            parameters |= {column: [wanted[column]] if column in wanted else list(kinds[column]) for column in kinds}
            parameters["reach"] = offset + limit
            statement = statements.PAGE_OF_KINDS.format(older=older)
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
                statements.CHANGES_AFTER, {"ids": list(positions), "afters": list(positions.values()), "limit": limit}
            )
            return [Run.FromString(row.run) for row in rows]

    async def oldest_sequence(self, run_id: str) -> int | None:
        """Return the oldest sequence of a run that is kept, or None."""
        async with self._database.autocommit() as connection:
            oldest: int | None = (await connection.execute(statements.OLDEST, {"id": run_id})).scalar_one()
            return oldest

    # What is left to do

    async def due(self, *, undispatched_for: timedelta, overdue_by: timedelta) -> set[str]:
        """Return which of these there are: `stops`, `overdue`, `undispatched`, `silent`. With one statement."""
        parameters = {"older_than": undispatched_for, "margin": overdue_by}
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statements.DUE, parameters)).one()
        return {name for name, there_are in row._asdict().items() if there_are}

    # Delivering

    async def mark_dispatched(self, ages: Mapping[str, float]) -> None:
        """Note, by run id, how many seconds ago runs were handed to the broker, or to the executor itself."""
        parameters = {"ids": list(ages), "ages": list(ages.values()), "reconcile_after": self._reconcile_after}
        async with self._database.autocommit() as connection:
            await connection.execute(statements.MARK_DISPATCHED, parameters)

    async def undispatched(self, *, older_than: timedelta, limit: int) -> list[Dispatchable]:
        """Return runs that were committed a while ago and not dispatched since: the outbox."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statements.FIND_UNDISPATCHED, {"older_than": older_than, "limit": limit})
            return [Dispatchable(Run.FromString(row.run), row.request_id) for row in rows]

    async def take_silent(self, *, limit: int) -> list[Dispatchable]:
        """Return dispatched runs that have been silent for too long; they are not due again for a while."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(
                statements.TAKE_SILENT, {"reconcile_after": self._reconcile_after, "limit": limit}
            )
            return [Dispatchable(Run.FromString(row.run), row.request_id) for row in rows]

    # Changing

    async def change(self, events: Sequence[RunEvent], changes: Changes) -> Changed:
        """Apply `events`, in order; return each change of a run that they made, and the events of another project.

        `changes` says what an event makes of a run. Every run changes in one transaction and under its row's lock, so
        sequences have no gaps; Changing.apply says what is ignored.
        """
        known = {run_id: v for run_id in {e.run_id for e in events} if (v := self._recent.get(run_id)) is not None}
        written = await self._change_known(known, [event for event in events if event.run_id in known], changes)
        done = known.keys() - written.refused
        rest = [event for event in events if event.run_id not in done]
        if not rest:
            return written.changes
        locked = await self._change_locked(rest, changes)
        foreign = [event for event in written.changes.foreign if event.run_id in done]
        return Changed(written.changes.history + locked.history, foreign + locked.foreign)

    async def _change_known(
        self, known: Mapping[str, Version], events: Sequence[RunEvent], changes: Changes
    ) -> _Written:
        """Write on top of what this process wrote last, with one statement; refused where that is not so any more."""
        work = Changing(known)
        work.apply(events, changes)
        reached(FailPoint.RUNS_IN_CHANGE)
        if not work.changed:
            return _Written(Changed([], work.foreign))
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statements.CHANGE, self._parameters(work, stop=False))
        fresh = {str(run_id) for run_id in rows.scalars()}
        refused = frozenset(work.changed.keys() - fresh)
        self._recent.drop(refused)
        self._remember(work.changed[run_id] for run_id in fresh)
        return _Written(Changed([run for run in work.history if run.id in fresh], work.foreign), refused)

    async def _change_locked(self, events: Sequence[RunEvent], changes: Changes) -> Changed:
        async with self._database.transaction() as connection:
            work = Changing(await self._lock(connection, {event.run_id for event in events}))
            work.apply(events, changes)
            if work.changed:
                await connection.execute(statements.CHANGE, self._parameters(work, stop=False))
            reached(FailPoint.RUNS_IN_CHANGE)
        self._remember(work.changed.values())
        return Changed(work.history, work.foreign)

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
                await connection.execute(statements.CHANGE, self._parameters(work, stop=True))
        self._recent.drop(work.changed)
        return work.history

    async def request_stop(self, run_id: str) -> None:
        """Note that a run shall not go on, until the executor has been told."""
        async with self._database.autocommit() as connection:
            await connection.execute(statements.REQUEST_STOP, {"id": run_id})

    async def stops(self, *, limit: int, after: str = str(UUID(int=0))) -> list[Dispatchable]:
        """Return runs of which the executor is still to be told that they shall not go on, by id, after one."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statements.STOPS, {"limit": limit, "after": after})
            return [Dispatchable(Run.FromString(row.run), row.request_id) for row in rows]

    async def mark_stopped(self, run_ids: Sequence[str]) -> None:
        """Note that the executor has been told."""
        async with self._database.autocommit() as connection:
            await connection.execute(statements.MARK_STOPPED, {"ids": list(run_ids)})

    async def overdue(self, *, margin: timedelta, limit: int) -> list[str]:
        """Return the ids of runs that have not ended long after their deadline."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statements.OVERDUE, {"margin": margin, "limit": limit})
            return [str(row.id) for row in rows]

    async def _lock(self, connection: Connection, run_ids: set[str]) -> dict[str, Version]:
        rows = await connection.execute(statements.LOCK, {"ids": sorted(run_ids)})
        return {str(row.id): Version(Run.FromString(row.run), row.event_number) for row in rows}

    def _parameters(self, work: Changing, *, stop: bool) -> dict[str, object]:
        changed = [(work.before[run_id], version) for run_id, version in work.changed.items()]
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
