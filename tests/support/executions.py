"""Looking at what the executor has on record, behind its back."""

from dataclasses import dataclass
from typing import Any

import psycopg

from devstack.stack import Stack
from tests.support.shop import Shop


def rows(stack: Stack, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(stack.postgres.url(database="playbook_runs")) as database:
        return database.execute(query, parameters).fetchall()  # type: ignore[arg-type]


@dataclass(frozen=True)
class Traces:
    """Everything a project's runs have left in the executor's tables."""

    executions: list[tuple[Any, ...]]
    drafts: list[tuple[Any, ...]]
    draft_items: list[tuple[Any, ...]]
    items: list[tuple[Any, ...]]
    products: list[tuple[Any, ...]]
    suggestions: list[tuple[Any, ...]]
    usage: list[tuple[Any, ...]]


def traces(shop: Shop) -> Traces:
    def of(query: str) -> list[tuple[Any, ...]]:
        return rows(shop.stack, query, shop.project)

    return Traces(
        # What was published may still change.
        of("""SELECT run_id, status, attempt, event_number, crashes, lease_owner, result, ai_reserved, error_code
              FROM executor.executions WHERE project_id = %s ORDER BY run_id"""),
        of("SELECT d::text FROM executor.drafts d WHERE project_id = %s ORDER BY id"),
        of("""SELECT i::text FROM executor.draft_items i JOIN executor.drafts d ON d.id = i.draft_id
              WHERE d.project_id = %s ORDER BY 1"""),
        of("""SELECT i::text FROM executor.run_items i JOIN executor.executions e USING (run_id)
              WHERE e.project_id = %s ORDER BY 1"""),
        of("SELECT p::text FROM executor.products p WHERE project_id = %s ORDER BY id"),
        of("SELECT s::text FROM executor.suggestions s WHERE project_id = %s ORDER BY 1"),
        of("SELECT u::text FROM executor.ai_usage u WHERE project_id = %s ORDER BY 1"),
    )
