"""Calls that may be repeated, and the run that each of them led to."""

from collections.abc import Sequence

from playbooks.runs.v1.run_pb2 import Run

from runs_service.messages import Call, NewRun
from runs_service.store.records import Stored
from runs_service.store.runs import CREATE_ROUNDS, Runs
from servicekit.postgres.database import Connection, Database


class Calls:
    """Creates runs for calls that have a name: their repeats find the run, even after it has ended."""

    def __init__(self, database: Database, runs: Runs) -> None:
        self._database = database
        self._runs = runs

    async def create(self, wanted: Sequence[NewRun]) -> list[Stored]:
        """Return, in order, the run that each of `wanted`, which all have a call, led to: now or the first time.

        The primary key decides which attempt at a call is the first. That one claims the call before it inserts the
        run, in one transaction; others wait for its commit. A call that is refused, because its idempotency key stands
        for a different request, is not recorded: its repeat is looked at anew.
        """
        outcomes: dict[str, Stored] = {}  # by the id of the run that was wanted
        for _ in range(CREATE_ROUNDS):
            pending = [new for new in wanted if new.run.id not in outcomes]
            if not pending:
                break
            outcomes |= await self._first_attempts(pending)
            if repeats := [new for new in pending if new.run.id not in outcomes]:
                outcomes |= await self._repeats(repeats)
        return [outcomes[new.run.id] for new in wanted]

    async def _first_attempts(self, wanted: Sequence[NewRun]) -> dict[str, Stored]:
        """Return what those of `wanted` led to that are the first attempt at their call."""
        # Every process claims in the same order, so that two batches never wait for each other. Of several attempts in
        # one batch one is enough.
        calls = {_identity(new): new for new in reversed(wanted)}
        async with self._database.transaction() as connection:
            claimed = await self._claim(connection, [calls[identity] for identity in sorted(calls)])
            # Keys are taken after all claims, and in one order, as by those that have no call.
            first = sorted(
                (new for new in wanted if new.run.id in claimed), key=lambda new: (new.run.project_id, new.dedup_key)
            )
            inserted = await self._runs.insert(connection, first) if first else set()
            taken = [new for new in first if new.run.id not in inserted]
            held = await self._settle(connection, taken) if taken else {}
        created = [new for new in first if new.run.id in inserted]
        self._runs.remember(created)
        return {new.run.id: Stored(new.run, True, True) for new in created} | held

    async def _repeats(self, wanted: Sequence[NewRun]) -> dict[str, Stored]:
        """Return what `wanted`, of whose calls there were other attempts, led to.

        Leaves out those whose first attempt was refused or met a key that was just being freed: they are tried anew.
        """
        found = await self.recorded(wanted)
        if rest := [new for new in wanted if new.run.id not in found]:
            held = await self._runs.holding_key(self._database, rest)
            found |= {run_id: stored for run_id, stored in held.items() if not stored.same_request}
        return found

    _CLAIM = """
    INSERT INTO runs.calls (project_id, name, run_id, meaning, created)
    SELECT * FROM unnest(CAST(%(projects)b AS text[]), CAST(%(names)b AS text[]), CAST(%(ids)b AS uuid[]),
                         CAST(%(meanings)b AS bytea[]), CAST(%(created)b AS boolean[]))
    ON CONFLICT (project_id, name) DO NOTHING
    RETURNING run_id"""

    async def _claim(self, connection: Connection, wanted: Sequence[NewRun]) -> set[str]:
        parameters = _names(wanted) | {
            "ids": [new.run.id for new in wanted],
            "meanings": [_call(new).meaning for new in wanted],
            "created": [_call(new).echoes_created for new in wanted],
        }
        return {str(row.run_id) for row in await connection.fetch_all(self._CLAIM, parameters)}

    _POINT = """
    WITH held AS MATERIALIZED (
        -- In the order in which events lock runs; the foreign key would lock them in any.
        SELECT id FROM runs.runs WHERE id = ANY(CAST(%(ids)b AS uuid[])) ORDER BY id FOR KEY SHARE
    )
    UPDATE runs.calls SET run_id = held.id, created = false
    FROM unnest(CAST(%(projects)b AS text[]), CAST(%(names)b AS text[]), CAST(%(ids)b AS uuid[]))
         AS call (project_id, name, run_id)
         JOIN held ON held.id = call.run_id
    WHERE calls.project_id = call.project_id AND calls.name = call.name
    RETURNING calls.project_id, calls.name"""

    _FORGET = """
    DELETE FROM runs.calls
    USING unnest(CAST(%(projects)b AS text[]), CAST(%(names)b AS text[])) AS call (project_id, name)
    WHERE calls.project_id = call.project_id AND calls.name = call.name"""

    async def _settle(self, connection: Connection, taken: Sequence[NewRun]) -> dict[str, Stored]:
        """Have the calls whose key was `taken` lead to the runs that hold it, and forget those that lead to none.

        Return the holders of the keys by the ids of `taken`, without those that have just gone.
        """
        held = await self._runs.holding_key(connection, taken)
        answered = [new for new in taken if new.run.id in held and held[new.run.id].same_request]
        ids = [held[new.run.id].run.id for new in answered]
        rows = await connection.fetch_all(self._POINT, _names(answered) | {"ids": ids}) if answered else []
        recorded = {(row.project_id, row.name) for row in rows}
        for new in answered:
            if _identity(new) not in recorded:
                del held[new.run.id]
        if rest := [new for new in taken if _identity(new) not in recorded]:
            await connection.execute(self._FORGET, _names(rest))
        return held

    _RECORDED = """
    SELECT wanted.id AS wanted_id, runs.run, calls.meaning, calls.created
    FROM unnest(CAST(%(projects)b AS text[]), CAST(%(names)b AS text[]), CAST(%(ids)b AS uuid[]))
         AS wanted (project_id, name, id)
    JOIN runs.calls USING (project_id, name) JOIN runs.runs ON runs.id = calls.run_id"""

    async def recorded(self, repeats: Sequence[NewRun]) -> dict[str, Stored]:
        """Return what the first attempts at the calls of `repeats` led to, by the ids of these."""
        parameters = _names(repeats) | {"ids": [new.run.id for new in repeats]}
        rows = {str(row.wanted_id): row for row in await self._database.fetch_all(self._RECORDED, parameters)}
        return {
            new.run.id: Stored(
                Run.FromString(row.run), row.created, bytes(row.meaning) == _call(new).meaning, is_repeat=True
            )
            for new in repeats
            if (row := rows.get(new.run.id))
        }


def _call(new: NewRun) -> Call:
    assert new.call, "only runs with a call come here"
    return new.call


def _identity(new: NewRun) -> tuple[str, str]:
    return new.run.project_id, _call(new).name


def _names(wanted: Sequence[NewRun]) -> dict[str, object]:
    return {"projects": [new.run.project_id for new in wanted], "names": [_call(new).name for new in wanted]}
