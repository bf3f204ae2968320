# ruff: noqa: S608 - statements are put together from constants only
"""Blank is what shows nothing: white space of every script, zero-width characters and fillers."""

from alembic import op

revision = "0004"
down_revision = "0003"

FIELDS = ("seo_title", "seo_description")
BEFORE = " \t\n\r\x0c\x0b\xa0"
# executor_service.playbooks.playbook.BLANKS as of this revision
BLANKS = (
    " \t\n\r\f\v\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000\xad\u034f\u115f\u1160\u180e\u200b\u200c\u200d\u2060\u2800\u3164\ufe0f\ufeff\uffa0"
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# What suggestions are cleaned of from now on: markup, character references, format and control characters.
UNCLEAN = (
    r"<[A-Za-z/!?]|&(#|lt|gt)|"
    "[\x01-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0\U000e0001-\U000e007f]"
)


def upgrade() -> None:
    for field in FIELDS:
        rebuild(
            field, f"({field} COLLATE \"C\" < '!' OR {field} COLLATE \"C\" > '~') AND btrim({field}, '{BLANKS}') = ''"
        )
    # Those that show nothing were paid for and are none: they are asked for again.
    op.execute(f"DELETE FROM executor.suggestions WHERE btrim(text, '{BLANKS}') = ''")
    # A draft is applied as it is. Its next preview cleans the suggestions that it takes over, at no cost.
    op.execute(f"""
        UPDATE executor.drafts SET expires_at = now()
        WHERE expires_at > now() AND id IN (
            SELECT draft_id FROM executor.draft_items WHERE final_suggestion ~ '{UNCLEAN}'
            OR (final_suggestion <> '' AND btrim(final_suggestion, '{BLANKS}') = ''))""")


def downgrade() -> None:
    for field in FIELDS:
        rebuild(field, f"btrim({field}, '{BEFORE}') = ''")


def rebuild(field: str, blank: str) -> None:
    op.execute(f"DROP INDEX executor.products_without_{field}")
    op.execute(f"CREATE INDEX products_without_{field} ON executor.products (project_id, id) WHERE {blank}")
