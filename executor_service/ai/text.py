"""Plain text out of what shops and models write."""

import re
from html import unescape

# PostgreSQL stores no NUL, UTF-8 no lone surrogate.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SENTENCE_END = re.compile(r"[.!?…](?=\s)|[。！？]")

_HTML_LIMIT = 20_000  # characters; nobody describes a product at greater length
# Not html.parser: 20,000 characters of unclosed tags keep it busy for seven seconds, and every other run waiting.
# Here no part looks beyond the next "<" in vain, nor twice as far (the *+), so the time grows with the length only.
_MARKUP = re.compile(
    r"""
      <!--.*?(?:-->|\Z)
    | <(script|style|template|noscript|head)\b.*?(?:</\1\s*>|\Z)
    | </?(?P<tag>[a-z][a-z0-9]*+)(?:(?:[^<>"']|"[^"<]*"|'[^'<]*')*+>|[^<>]*(?:>|\Z))
    | <[!?/][^<>]*(?:>|\Z)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_BLOCK = re.compile(
    "address|article|aside|blockquote|br|caption|d[dlt]|div|figcaption|figure|footer|form|h[1-6r]|header|li|main|nav|ol|p|"
    "pre|section|summary|table|tr|ul",
    re.IGNORECASE,
)
_CELL = re.compile("td|th|option", re.IGNORECASE)
# unescape() itself fails on numbers of more than 4,300 digits.
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});?", re.IGNORECASE)


def one_line(text: str) -> str:
    """Return the text without control characters, every run of white space as one blank."""
    return " ".join(_UNSTORABLE.sub(" ", text).split())


def cut_at_word(text: str, limit: int, ellipsis: str = "") -> str:
    """Return at most `limit` characters of the text, without a broken last word if it has blanks at all."""
    if len(text) <= limit:
        return text
    room = limit - len(ellipsis)
    head, blank, _ = text[: room + 1].rpartition(" ")
    return (head if blank else text[:room]).rstrip(" ,;:–—-|&/(") + ellipsis


def cut_at_sentence(text: str, limit: int) -> str:
    """Return at most `limit` characters: whole sentences if they fill half of it, else words and an ellipsis."""
    if len(text) <= limit:
        return text
    ends = [end.end() for end in _SENTENCE_END.finditer(text, 0, limit + 1) if end.end() <= limit]
    if ends and ends[-1] >= limit / 2:
        return text[: ends[-1]]
    return cut_at_word(text, limit, "…")


def text_blocks(html: str) -> list[str]:
    """Return the visible text of an HTML fragment, one line for each paragraph, list item or row."""
    marked = _MARKUP.sub(_separator, one_line(html[:_HTML_LIMIT]))
    lines = (one_line(_REFERENCE.sub(lambda reference: unescape(reference[0]), line)) for line in marked.split("\n"))
    return [line for line in lines if line]


def plain_text(html: str) -> str:
    """Return the visible text of an HTML fragment, blocks separated by line breaks."""
    return "\n".join(text_blocks(html))


def _separator(markup: re.Match[str]) -> str:
    tag = markup["tag"] or ""
    if _BLOCK.fullmatch(tag):
        return "\n"
    return " " if _CELL.fullmatch(tag) else ""
