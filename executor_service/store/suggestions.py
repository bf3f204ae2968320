# ruff: noqa: S608 - statements are put together from constants only
"""Suggestions that were paid for, each under everything it depends on."""

import json
from collections.abc import Sequence
from typing import ClassVar

from executor_service.domain.ai_usage import AIUsage
from executor_service.domain.execution import Lease, State
from executor_service.domain.paging import Slice
from executor_service.domain.suggestion import Suggestion, SuggestionCandidate
from executor_service.playbooks.playbook import Playbook
from executor_service.predicates import BLANK
from executor_service.store.pages import page_of, slice_of
from executor_service.store.rows import FENCE, STATE, fence, lease_lost, state_of
from servicekit.postgres.database import Querier

# A JSON array, because its text is unambiguous. What else a prompt comes to depend on belongs in here.
_FINGERPRINT = """sha256(convert_to(CAST(jsonb_build_array(
  CAST(%(field)s AS text), CAST(%(model)s AS text), CAST(%(prompt_version)s AS text), p.title, p.description
) AS text), 'UTF8'))"""

# LIMIT 1 makes it one step into the index for each product. As a plain join, planned while there were few suggestions,
# it went through all of the project's for each.
_STORED = """LEFT JOIN LATERAL (
  SELECT text, used_at FROM executor.suggestions
  WHERE project_id = %(project_id)s AND fingerprint = p.fingerprint LIMIT 1
) s ON true"""

_PRODUCT = "id, title, description"
NOTED_EVERY = "1 day"  # the use of a suggestion: more often would only make writes
NOTED_TOGETHER = 1_000  # uses, with one statement


def _candidates(products: str) -> str:
    # OFFSET 0 keeps the planner from writing the fingerprint, which is most of the work, into the statement twice.
    return f"""
SELECT p.id, p.fingerprint, s.text,
       CASE WHEN s.text IS NULL THEN p.title ELSE '' END AS title,
       CASE WHEN s.text IS NULL THEN p.description ELSE '' END AS description,
       coalesce(s.used_at < now() - interval '{NOTED_EVERY}', false) AS use_is_due, p.more
FROM (SELECT p.*, {_FINGERPRINT} AS fingerprint FROM ({products}) p OFFSET 0) p
{_STORED}
ORDER BY p.id"""


def _affected(blank: str) -> str:
    return f"SELECT {_PRODUCT} FROM executor.products WHERE project_id = %(project_id)s AND {blank}"


class Suggestions:
    """Reads and stores suggestions. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _SAMPLE: ClassVar = {
        field: _candidates(f"SELECT *, false AS more FROM ({_affected(blank)} ORDER BY id LIMIT %(limit)s) p")
        for field, blank in BLANK.items()
    }

    async def sample(
        self, project_id: str, playbook: Playbook, *, model: str, prompt_version: str, limit: int
    ) -> Sequence[SuggestionCandidate]:
        """Return the first `limit` affected products by id, with the suggestions that are there."""
        parameters = _parameters(project_id, playbook, model, prompt_version) | {"limit": limit}
        rows = await self._querier.fetch_all(self._SAMPLE[playbook.field], parameters)
        return slice_of(rows, SuggestionCandidate).rows

    # Ids are looked at in the index alone; texts are read of those that were chosen. By their hash, since the first by
    # id are those that previews have had suggestions for.
    _SPREAD: ClassVar = {
        field: _candidates(
            page_of(
                f"""SELECT {_PRODUCT} FROM (
                      SELECT project_id, id FROM executor.products
                      WHERE project_id = %(project_id)s AND {blank} AND mod(hashtextextended(id, 0), %(every)s) = 0
                      OFFSET 0
                    ) AS chosen JOIN executor.products USING (project_id, id)""",
                columns=_PRODUCT,
                key="id",
                texts=["title", "description"],
            )
        )
        for field, blank in BLANK.items()
    }

    async def spread(
        self, project_id: str, playbook: Playbook, *, model: str, prompt_version: str, every: int, limit: int
    ) -> Sequence[SuggestionCandidate]:
        """Return about one in `every` affected products, always the same ones, with the suggestions that are there.

        At most `limit` of them, and none after those whose texts have reached a page's bytes.
        """
        parameters = _parameters(project_id, playbook, model, prompt_version) | {"every": every, "limit": limit}
        return slice_of(
            await self._querier.fetch_all(self._SPREAD[playbook.field], parameters), SuggestionCandidate
        ).rows

    _PAGE: ClassVar = {
        field: _candidates(
            page_of(
                f"{_affected(blank)} AND id > %(after)s", columns=_PRODUCT, key="id", texts=["title", "description"]
            )
        )
        for field, blank in BLANK.items()
    }

    async def page(
        self, project_id: str, playbook: Playbook, *, model: str, prompt_version: str, after: str, limit: int
    ) -> Slice[SuggestionCandidate]:
        """Return up to `limit` affected products by id, from the one after `after`, with the suggestions that are
        there."""
        parameters = _parameters(project_id, playbook, model, prompt_version) | {"after": after, "limit": limit}
        return slice_of(await self._querier.fetch_all(self._PAGE[playbook.field], parameters), SuggestionCandidate)

    _MISSING: ClassVar = {
        field: f"""
    SELECT count(DISTINCT p.fingerprint) AS missing
    FROM (SELECT {_FINGERPRINT} AS fingerprint FROM executor.products p
          WHERE project_id = %(project_id)s AND {blank} OFFSET 0) p
    {_STORED}
    WHERE s.text IS NULL"""
        for field, blank in BLANK.items()
    }

    async def missing(self, project_id: str, playbook: Playbook, *, model: str, prompt_version: str) -> int:
        """Return how many suggestions have to be asked for; products of the same content share one."""
        parameters = _parameters(project_id, playbook, model, prompt_version)
        count: int = (await self._querier.fetch_one(self._MISSING[playbook.field], parameters)).missing
        return count

    _NOTE_USE = """
    WITH used AS MATERIALIZED (
      SELECT fingerprint FROM executor.suggestions
      WHERE project_id = %(project_id)s AND fingerprint = ANY(CAST(%(fingerprints)b AS bytea[]))
      ORDER BY fingerprint FOR UPDATE SKIP LOCKED
    )
    UPDATE executor.suggestions SET used_at = now()
    WHERE project_id = %(project_id)s AND fingerprint IN (SELECT fingerprint FROM used)"""

    async def note_use(self, project_id: str, candidates: Sequence[SuggestionCandidate]) -> None:
        """Note that a run uses the suggestions that are stored for `candidates`, where that is due."""
        due = [candidate.fingerprint for candidate in candidates if candidate.use_is_due]
        for start in range(0, len(due), NOTED_TOGETHER):
            parameters = {"project_id": project_id, "fingerprints": due[start : start + NOTED_TOGETHER]}
            await self._querier.execute(self._NOTE_USE, parameters)

    # In the order of the fingerprints, so that two runs that got the same suggestions cannot deadlock.
    _RECORD = f"""
    WITH run AS (
      UPDATE executor.executions
      SET ai_reserved = greatest(ai_reserved - %(usable)s, 0), progress_completed = %(completed)s,
          progress_total = %(total)s, ai_usage = %(usage)s,
          event_number = event_number + CASE WHEN %(report)s THEN 1 ELSE 0 END, updated_at = now()
      WHERE {FENCE} RETURNING {STATE}
    ), stored AS (
      INSERT INTO executor.suggestions (project_id, fingerprint, text, model)
      SELECT %(project_id)s, arrived.fingerprint, arrived.text, %(model)s
      FROM run, unnest(CAST(%(fingerprints)b AS bytea[]), CAST(%(texts)b AS text[])) AS arrived (fingerprint, text)
      ORDER BY arrived.fingerprint
      ON CONFLICT (project_id, fingerprint) DO NOTHING
    )
    SELECT * FROM run"""

    async def record(
        self,
        lease: Lease,
        project_id: str,
        arrived: Sequence[Suggestion],
        *,
        model: str,
        usage: AIUsage | None,
        completed: int,
        total: int,
        report: bool,
    ) -> State:
        """Store suggestions the moment they arrive, and turn that much of the run's reservation into use.

        Also stores the run's AI usage so far: it is paid for, even if this attempt fails.

        With `report` this is a change of the run that is published. Raises LeaseLost, and stores nothing then.
        """
        parameters = {
            **fence(lease),
            "project_id": project_id,
            "usable": len(arrived),
            "fingerprints": [suggestion.fingerprint for suggestion in arrived],
            "texts": [suggestion.text for suggestion in arrived],
            "model": model,
            "usage": None if usage is None else json.dumps(usage._asdict()),
            "completed": completed,
            "total": total,
            "report": report,
        }
        row = await self._querier.fetch_optional(self._RECORD, parameters)
        if row is None:
            raise lease_lost(lease)
        return state_of(row)


def _parameters(project_id: str, playbook: Playbook, model: str, prompt_version: str) -> dict[str, object]:
    return {
        "project_id": project_id,
        "field": playbook.field,
        "model": model,
        "prompt_version": prompt_version,
    }
