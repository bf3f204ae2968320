"""The scope: a short name for the set of products a playbook would work on."""

import hashlib
from collections.abc import Iterable


def prefix(project_id: str, playbook_id: str) -> str:
    """Return what is hashed before the product ids, which are sorted and joined by ","."""
    return f"{project_id}:{playbook_id}:"


def digits(digest: bytes) -> str:
    """Return the id of the scope whose UTF-8 text has this SHA-256."""
    return digest.hex()[:16]


def scope_id(project_id: str, playbook_id: str, product_ids: Iterable[str]) -> str:
    """Return the 16 hex digits that name these affected products, in any order.

    Part of the contract with callers, who keep it between calls: the formula must not change. Ids are sorted by
    Unicode code point, which is PostgreSQL's order under COLLATE "C"; store/catalog.py does the same in SQL.
    """
    named = prefix(project_id, playbook_id) + ",".join(sorted(product_ids))
    return digits(hashlib.sha256(named.encode()).digest())
