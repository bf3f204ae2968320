# ruff: noqa: S608 - statements are put together from constants only
"""Suggestions that were paid for, each under everything it depends on."""

from collections.abc import Sequence

from sqlalchemy import TextClause, text

from executor_service.domain.execution import Lease, LeaseLost, State
from executor_service.domain.paging import Slice
from executor_service.domain.suggestion import Suggestion, SuggestionCandidate
from executor_service.models import BLANK
from executor_service.playbooks.playbook import Playbook
from executor_service.store.executions import FENCE, STATE, fence, state_of
from executor_service.store.pages import page_of, slice_of
from servicekit.postgres.database import Connection

# A JSON array, because its text is unambiguous. Whatever else a prompt comes to depend on belongs in here.
_FINGERPRINT = """sha256(convert_to(CAST(jsonb_build_array(
  CAST(:field AS text), CAST(:model AS text), CAST(:prompt_version AS text), p.title, p.description
) AS text), 'UTF8'))"""

# LIMIT 1 makes it one step into the index for each product. As a plain join, planned while there were few suggestions,
# it went through all of the project's for each.
_STORED = """LEFT JOIN LATERAL (
  SELECT text FROM executor.suggestions
  WHERE project_id = :project_id AND fingerprint = p.fingerprint LIMIT 1
) s ON true"""

_PRODUCT = "id, title, description"


def _wanted(products: str) -> TextClause:
    # OFFSET 0 keeps the planner from writing the fingerprint, which is most of the work, into the statement twice.
    return text(f"""
SELECT p.id, p.fingerprint, s.text,
       CASE WHEN s.text IS NULL THEN p.title ELSE '' END AS title,
       CASE WHEN s.text IS NULL THEN p.description ELSE '' END AS description, p.more
FROM (SELECT p.*, {_FINGERPRINT} AS fingerprint FROM ({products}) p OFFSET 0) p
{_STORED}
ORDER BY p.id""")


def _affected(blank: str) -> str:
    return f"SELECT {_PRODUCT} FROM executor.products WHERE project_id = :project_id AND {blank}"


_SAMPLE = {
    field: _wanted(f"SELECT *, false AS more FROM ({_affected(blank)} ORDER BY id LIMIT :limit) p")
    for field, blank in BLANK.items()
}
_PAGE = {
    field: _wanted(
        page_of(f"{_affected(blank)} AND id > :after", columns=_PRODUCT, key="id", texts=["title", "description"])
    )
    for field, blank in BLANK.items()
}


async def sample(
    connection: Connection, project_id: str, playbook: Playbook, *, model: str, prompt_version: str, limit: int
) -> Sequence[SuggestionCandidate]:
    """Return the first `limit` affected products by id, with the suggestions that are there."""
    parameters = _parameters(project_id, playbook, model, prompt_version) | {"limit": limit}
    return slice_of(await connection.execute(_SAMPLE[playbook.field], parameters), SuggestionCandidate).rows


async def page(
    connection: Connection,
    project_id: str,
    playbook: Playbook,
    *,
    model: str,
    prompt_version: str,
    after: str,
    limit: int,
) -> Slice[SuggestionCandidate]:
    """Return up to `limit` affected products by id, from the one after `after`, with the suggestions that are there."""
    parameters = _parameters(project_id, playbook, model, prompt_version) | {"after": after, "limit": limit}
    return slice_of(await connection.execute(_PAGE[playbook.field], parameters), SuggestionCandidate)


def _parameters(project_id: str, playbook: Playbook, model: str, prompt_version: str) -> dict[str, object]:
    return {
        "project_id": project_id,
        "field": playbook.field,
        "model": model,
        "prompt_version": prompt_version,
    }


_MISSING = {
    field: text(f"""
SELECT count(DISTINCT p.fingerprint)
FROM (SELECT {_FINGERPRINT} AS fingerprint FROM executor.products p
      WHERE project_id = :project_id AND {blank} OFFSET 0) p
{_STORED}
WHERE s.text IS NULL""")
    for field, blank in BLANK.items()
}


async def missing(
    connection: Connection, project_id: str, playbook: Playbook, *, model: str, prompt_version: str
) -> int:
    """Return how many suggestions have to be asked for; products of the same content share one."""
    parameters = _parameters(project_id, playbook, model, prompt_version)
    count: int = (await connection.execute(_MISSING[playbook.field], parameters)).scalar_one()
    return count


# In the order of the fingerprints, so that two runs that got the same suggestions cannot deadlock.
_RECORD = text(f"""
WITH run AS (
  UPDATE executor.executions
  SET ai_reserved = greatest(ai_reserved - :usable, 0), progress_completed = :completed, progress_total = :total,
      event_number = event_number + CASE WHEN :tell THEN 1 ELSE 0 END, updated_at = now()
  WHERE {FENCE} RETURNING {STATE}
), stored AS (
  INSERT INTO executor.suggestions (project_id, fingerprint, text, model)
  SELECT :project_id, arrived.fingerprint, arrived.text, :model
  FROM run, unnest(CAST(:fingerprints AS bytea[]), CAST(:texts AS text[])) AS arrived (fingerprint, text)
  ORDER BY arrived.fingerprint
  ON CONFLICT (project_id, fingerprint) DO NOTHING
)
SELECT * FROM run""")


async def record(
    connection: Connection,
    lease: Lease,
    project_id: str,
    arrived: Sequence[Suggestion],
    *,
    model: str,
    completed: int,
    total: int,
    tell: bool,
) -> State:
    """Store suggestions the moment they arrive, and turn that much of the run's reservation into use.

    With `tell` this is a change of the run that others hear of. Raises LeaseLost, and stores nothing then.
    """
    parameters = {
        **fence(lease),
        "project_id": project_id,
        "usable": len(arrived),
        "fingerprints": [suggestion.fingerprint for suggestion in arrived],
        "texts": [suggestion.text for suggestion in arrived],
        "model": model,
        "completed": completed,
        "total": total,
        "tell": tell,
    }
    row = (await connection.execute(_RECORD, parameters)).one_or_none()
    if row is None:
        raise LeaseLost(f"run {lease.run_id}, attempt {lease.attempt}")
    return state_of(row)
