"""The scope: a short name for the set of products a playbook would work on."""

import hashlib
from collections.abc import Iterable

SCOPE_ID_DIGITS = 16


def scope_id(project_id: str, playbook_id: str, product_ids: Iterable[str]) -> str:
    """Return the 16 hex digits that name these affected products, in whatever order they are given.

    Part of the contract with callers, who keep it between calls: the formula must not change. Ids are sorted by
    Unicode code point, which is PostgreSQL's order under COLLATE "C"; store/catalog.py has the same in SQL.
    """
    named = f"{project_id}:{playbook_id}:{','.join(sorted(product_ids))}"
    return hashlib.sha256(named.encode()).hexdigest()[:SCOPE_ID_DIGITS]
