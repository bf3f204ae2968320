"""The playbooks: which products each works on, and which field it fills."""

from dataclasses import dataclass
from typing import Literal


class UnknownPlaybookError(LookupError):
    """There is no such playbook: use missing_seo_title or missing_seo_description."""


@dataclass(frozen=True, slots=True)
class Playbook:
    """One playbook. Its affected products are those whose `field` is missing or blank."""

    id: str
    field: Literal["seo_title", "seo_description"]
    noun: str  # for messages to people
    field_limit: int  # characters; a catalog takes no longer ones (catalog_service.proto)


MISSING_SEO_TITLE = Playbook("missing_seo_title", "seo_title", "SEO title", 1_000)
MISSING_SEO_DESCRIPTION = Playbook("missing_seo_description", "seo_description", "SEO description", 5_000)
PLAYBOOKS = (MISSING_SEO_TITLE, MISSING_SEO_DESCRIPTION)


def playbook(playbook_id: str) -> Playbook:
    """Return the playbook of that id; raise UnknownPlaybookError for any other id."""
    for candidate in PLAYBOOKS:
        if candidate.id == playbook_id:
            return candidate
    raise UnknownPlaybookError(f"There is no playbook {playbook_id!r}: use {' or '.join(p.id for p in PLAYBOOKS)}.")
