# ruff: noqa: S608 - statements are put together from constants only
"""What a project's runs were and cost, by UTC day and run type.

The statement that ends runs appends what they add up to, a row for each project, day and type among them
(`usage_increments`): to add to a common row would make all who end runs of a project wait for each other. Now and then
`fold` takes these rows away and adds them to `usage_daily`. Readers add up both, so what they see is exact at any
moment. No statement here reads runs: there may be millions, and the days outlive them.
"""

import json
from collections.abc import Sequence
from datetime import UTC, date
from typing import NamedTuple

from playbooks.runs.v1.run_pb2 import AiUsage, Run

from runs_service.predicates import USAGE_COUNTS
from servicekit.postgres.database import Querier

_AI_COUNTS = USAGE_COUNTS[2:]
_COUNTS = ", ".join(USAGE_COUNTS)
_KEY = "project_id, day, run_type"

# A common table expression for a statement that has the runs it changed as `changed` (id, project_id, run_type).
COUNT_ENDED = f"""
        INSERT INTO runs.usage_increments ({_KEY}, {_COUNTS})
        SELECT changed.project_id, ended.day, changed.run_type, count(*), count(*) FILTER (WHERE ended.ai_used),
               {", ".join(f"coalesce(sum(CAST(ended.cost ->> '{count}' AS bigint)), 0)" for count in _AI_COUNTS)}
        FROM unnest(CAST(%(ended_ids)b AS uuid[]), CAST(%(ended_days)b AS date[]),
                    CAST(%(ended_ai_used)b AS boolean[]), CAST(%(ended_costs)b AS jsonb[]))
             AS ended (id, day, ai_used, cost)
             JOIN changed USING (id)
        GROUP BY changed.project_id, ended.day, changed.run_type"""


class Used(NamedTuple):
    """The runs of one type that ended on one day."""

    day: date
    run_type: str
    runs: int
    ai_runs: int
    ai_usage: AiUsage


def columns_of(ended: Sequence[Run]) -> dict[str, object]:
    """Return the parameters of COUNT_ENDED for runs that end with this statement."""
    return {
        "ended_ids": [run.id for run in ended],
        "ended_days": [run.finished_at.ToDatetime(UTC).date() for run in ended],
        "ended_ai_used": [run.ai_used for run in ended],
        # NULL for most runs, which ask for nothing: six more columns would cost each of them.
        "ended_costs": [_cost(run.ai_usage) if run.HasField("ai_usage") else None for run in ended],
    }


def _cost(usage: AiUsage) -> str:
    return json.dumps({count: getattr(usage, count) for count in _AI_COUNTS})


class Usage:
    """Reads what runs cost, and folds what was appended. Takes where statements run."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _BY_DAY = f"""
    SELECT day, run_type, {", ".join(f"CAST(sum({count}) AS bigint) AS {count}" for count in USAGE_COUNTS)}
    FROM (
        SELECT * FROM runs.usage_daily
        WHERE project_id = %(project_id)s AND day BETWEEN %(first)s AND %(last)s
        UNION ALL
        SELECT * FROM runs.usage_increments
        WHERE project_id = %(project_id)s AND day BETWEEN %(first)s AND %(last)s
    ) AS counted
    GROUP BY day, run_type ORDER BY day, run_type"""

    async def by_day(self, project_id: str, first: date, last: date) -> list[Used]:
        """Return what a project's runs were, from the `first` to the `last` day: by day, then by run type."""
        parameters = {"project_id": project_id, "first": first, "last": last}
        return [
            Used(
                row.day,
                row.run_type,
                row.runs,
                row.ai_runs,
                AiUsage(**{count: getattr(row, count) for count in _AI_COUNTS}),
            )
            for row in await self._querier.fetch_all(self._BY_DAY, parameters)
        ]

    # In the order of the key, so that two processes that fold do not wait for each other in a circle.
    _FOLD = f"""
    WITH taken AS (
        DELETE FROM runs.usage_increments WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM runs.usage_increments LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        ))
        RETURNING *
    ), folded AS (
        INSERT INTO runs.usage_daily AS daily ({_KEY}, {_COUNTS})
        SELECT {_KEY}, {", ".join(f"sum({count})" for count in USAGE_COUNTS)}
        FROM taken GROUP BY {_KEY} ORDER BY {_KEY}
        ON CONFLICT ({_KEY}) DO UPDATE
        SET {", ".join(f"{count} = daily.{count} + excluded.{count}" for count in USAGE_COUNTS)}
    )
    SELECT count(*) AS taken FROM taken"""

    async def fold(self, *, limit: int) -> int:
        """Add up to `limit` of the rows that were appended to their days; return how many there were."""
        taken: int = (await self._querier.fetch_one(self._FOLD, {"limit": limit})).taken
        return taken
