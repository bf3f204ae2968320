"""The changes of a project's runs, as the difference of two snapshots.

A change belongs to the transaction that made it. What is new since a snapshot is what its reader could not see, however
long a transaction stayed open; so nothing is missed, nothing comes twice, and no writer waits for another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from playbooks.runs.v1.run_pb2 import Run

from servicekit.background.breathing import breathing
from servicekit.postgres.database import Database, Row
from servicekit.postgres.snapshots import Snapshot

# Transactions: a server that crashed forgets the last ones that changed nothing, and gives their numbers out again.
LOST_IN_A_CRASH = 100


class Change(NamedTuple):
    """A run as it was after a change, and the transaction that made it."""

    xid: int
    run: Run

    @property
    def place(self) -> tuple[str, int]:
        """The place among the changes of one page: by run, in order of sequence."""
        return self.run.id, self.run.sequence


@dataclass(frozen=True)
class Page:
    """What came after a snapshot, in the order of `place`: all that `until` sees and the snapshot did not."""

    until: Snapshot
    changes: Sequence[Change]
    has_more: bool = False
    has_expired: bool = False  # some of what came after the snapshot was deleted


class Changes:
    """Reads what changed in projects."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Those that ran when the snapshot was taken are looked up one by one; what began later is a range of the index. A
    # number that the server has not given out is from another one, whose dump was restored here.
    _SINCE = """
    SELECT watched.project_id, CAST(view.now AS text) AS now,
           CAST(expired.xid AS text) AS expired, CAST(change.xid AS text) AS xid, change.is_late, change.run
    FROM unnest(CAST(%(projects)b AS text[]), CAST(%(afters)b AS text[])) AS watched (project_id, after)
    CROSS JOIN (SELECT pg_current_snapshot() AS now OFFSET 0) AS view
    LEFT JOIN runs.expired_changes AS expired ON expired.project_id = watched.project_id
    LEFT JOIN LATERAL (
        SELECT xid, true AS is_late, run FROM runs.run_events
        WHERE project_id = watched.project_id
          AND xid = ANY(ARRAY(SELECT pg_snapshot_xip(CAST(watched.after AS pg_snapshot))))
        UNION ALL (
            SELECT xid, false, run FROM runs.run_events
            WHERE project_id = watched.project_id AND xid >= pg_snapshot_xmax(CAST(watched.after AS pg_snapshot))
              AND xid < pg_snapshot_xmax(view.now)
            ORDER BY xid FETCH FIRST %(limit)s ROWS WITH TIES
        )
    ) AS change ON true"""

    async def since(self, snapshots: Mapping[str, Snapshot], *, limit: int) -> dict[str, Page]:
        """Return, for each project, what came after its snapshot.

        A page has some `limit` changes, and more where that would tear transactions or runs apart.
        """
        parameters = {
            "projects": list(snapshots),
            "afters": [str(snapshot) for snapshot in snapshots.values()],
            "limit": limit,
        }
        found: dict[str, list[Row]] = {project: [] for project in snapshots}
        for row in await self._database.fetch_all(self._SINCE, parameters):
            found[row.project_id].append(row)
        pages = {project: await _page(snapshots[project], rows, limit) for project, rows in found.items()}
        for project, page in pages.items():
            if page.has_more and await self._is_torn(page):
                pages |= await self.since({project: snapshots[project]}, limit=2 * limit)
        return pages

    _TORN = """
    SELECT EXISTS (
        SELECT FROM unnest(CAST(%(ids)b AS uuid[]), CAST(%(sequences)b AS bigint[])) AS sent (run_id, sequence)
        JOIN runs.run_events AS earlier ON earlier.run_id = sent.run_id AND earlier.sequence < sent.sequence
        WHERE earlier.xid >= CAST(%(end)s AS xid8) AND earlier.xid < pg_snapshot_xmax(pg_current_snapshot())
    ) AS is_torn"""

    async def _is_torn(self, page: Page) -> bool:
        """Return whether a run's earlier change lies behind the page's end.

        A transaction that began first may change a run last, after it waited for the run's lock.
        """
        newest = {change.run.id: change.run.sequence for change in page.changes}
        parameters = {"ids": list(newest), "sequences": list(newest.values()), "end": str(page.until.xmax)}
        return bool((await self._database.fetch_one(self._TORN, parameters)).is_torn)

    _BETWEEN = """
    SELECT CAST(xid AS text) AS xid, run FROM (
        SELECT xid, run_id, sequence, run FROM runs.run_events
        WHERE project_id = %(project)s AND xid = ANY(ARRAY(SELECT pg_snapshot_xip(CAST(%(after)s AS pg_snapshot))))
        UNION ALL
        SELECT xid, run_id, sequence, run FROM runs.run_events
        WHERE project_id = %(project)s AND xid >= pg_snapshot_xmax(CAST(%(after)s AS pg_snapshot))
          AND xid < pg_snapshot_xmax(CAST(%(until)s AS pg_snapshot))
    ) AS change
    WHERE pg_visible_in_snapshot(xid, CAST(%(until)s AS pg_snapshot))
      AND (run_id, sequence) > (CAST(%(run_id)s AS uuid), %(sequence)s)
    ORDER BY run_id, sequence LIMIT %(limit)s"""

    async def between(
        self, project_id: str, after: Snapshot, until: Snapshot, *, place: tuple[str, int], limit: int
    ) -> list[Change]:
        """Return what `until` sees and `after` does not, from behind a place on: `limit` changes at most."""
        parameters = {
            "project": project_id,
            "after": str(after),
            "until": str(until),
            "run_id": place[0],
            "sequence": place[1],
            "limit": limit,
        }
        return await _changes(await self._database.fetch_all(self._BETWEEN, parameters))

    _KEPT = """
    SELECT CAST(pg_current_snapshot() AS text) AS now,
           (SELECT CAST(xid AS text) FROM runs.expired_changes WHERE project_id = %(project)s) AS expired"""

    async def is_kept(self, project_id: str, after: Snapshot, until: Snapshot) -> bool:
        """Return whether every change after a snapshot is there; `until` is another that was taken later.

        A snapshot from the future is of another database, of which nothing is here.
        """
        row = await self._database.fetch_one(self._KEPT, {"project": project_id})
        now = Snapshot.parse(row.now)
        return not (_has_expired(after, row.expired) or _is_foreign(after, now) or _is_foreign(until, now))

    _AS_OF = """
    SELECT version.run
    FROM unnest(CAST(%(ids)b AS uuid[])) WITH ORDINALITY AS listed (run_id, place)
    CROSS JOIN LATERAL (
        SELECT run FROM runs.run_events
        WHERE run_id = listed.run_id AND pg_visible_in_snapshot(xid, CAST(%(snapshot)s AS pg_snapshot))
        ORDER BY sequence DESC LIMIT 1
    ) AS version
    ORDER BY listed.place"""

    async def as_of(self, snapshot: Snapshot, run_ids: Sequence[str]) -> list[Run]:
        """Return those of the runs that `snapshot` sees, as they were then, in the given order."""
        parameters = {"ids": list(run_ids), "snapshot": str(snapshot)}
        return [Run.FromString(row.run) for row in await self._database.fetch_all(self._AS_OF, parameters)]


async def _page(after: Snapshot, rows: Sequence[Row], limit: int) -> Page:
    until = Snapshot.parse(rows[0].now)
    found = [row for row in rows if row.xid is not None]
    new = [int(row.xid) for row in found if not row.is_late]
    has_more = len(new) >= limit
    return Page(
        until=until.cut(max(new)) if has_more else until,
        changes=await _changes(found),
        has_more=has_more,
        has_expired=_has_expired(after, rows[0].expired) or _is_foreign(after, until),
    )


async def _changes(rows: Sequence[Row]) -> list[Change]:
    changes = [Change(int(row.xid), Run.FromString(row.run)) async for row in breathing(rows)]
    return sorted(changes, key=lambda change: change.place)


def _has_expired(after: Snapshot, expired: str | None) -> bool:
    """Whether a change that `after` may not have seen was deleted; `expired`: the newest one that was."""
    return expired is not None and int(expired) >= after.xmin


def _is_foreign(snapshot: Snapshot, now: Snapshot) -> bool:
    return snapshot.xmax > now.xmax + LOST_IN_A_CRASH
