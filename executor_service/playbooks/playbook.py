"""The playbooks: which products each works on, and which field it fills."""

from dataclasses import dataclass
from typing import Literal

# What counts as nothing in a product's field: white space of every script, and characters that show nothing. An
# explicit list, because Python's str.strip() and PostgreSQL's btrim() disagree about whitespace: SQL takes this one.
BLANKS = (
    " \t\n\r\f\v\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000\xad\u034f\u115f\u1160\u180e\u200b\u200c\u200d\u2060\u2800\u3164\ufe0f\ufeff\uffa0"
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


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


def is_blank(text: str | None) -> bool:
    """Whether a field shows nothing: it has no characters but BLANKS, exactly as in the store's SQL."""
    return not (text or "").strip(BLANKS)
