"""What *blank* means, the same for catalog files, the catalog, its SQL and the runs."""

from typing import Final

# White space of every script, and characters that show nothing. An explicit list, because Python's str.strip() and
# PostgreSQL's btrim() disagree about white space: SQL takes this one.
BLANKS: Final = (
    " \t\n\r\f\v\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000\xad\u034f\u115f\u1160\u180e\u200b\u200c\u200d\u2060\u2800\u3164\ufe0f\ufeff\uffa0"
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def is_blank(text: str | None) -> bool:
    """Whether a text shows nothing: it has no characters but BLANKS, exactly as in the store's SQL."""
    return not (text or "").strip(BLANKS)
