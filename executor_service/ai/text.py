"""Plain text out of what shops and models write."""

import re
from html import unescape

from executor_service.playbooks.formula import without_formula

# PostgreSQL stores no NUL, UTF-8 no lone surrogate.
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SENTENCE_END = re.compile(r"[.!?…](?=\s)|[。！？]")

_HTML_LIMIT = 65_536  # characters; what the catalog takes, a picture in base64 among it
_TEXT_LIMIT = 20_000  # visible characters that are read; more than any real description has


def _markup(end: str) -> re.Pattern[str]:
    # Not html.parser: 20,000 characters of unclosed tags keep it busy for seven seconds, and every other run waiting.
    # Here no part looks beyond the next "<" in vain, nor twice as far (the *+), so the time grows with the length only.
    return re.compile(
        rf"""
          <!--.*?(?:-->|\Z)
        | <(script|style|template|noscript|head)\b.*?(?:</\1\s*>|\Z)
        | </?(?P<tag>[a-z][a-z0-9]*+)(?:(?:[^<>"']|"[^"<]*"|'[^'<]*')*+>|[^<>]*{end})
        | <[!?/][^<>]*{end}
        | !\[[^\[\]<>]{{0,200}}+\]\(data:[^\s)<>]*+\)?
        """,
        re.VERBOSE | re.IGNORECASE | re.DOTALL,
    )


_MARKUP = _markup(r"(?:>|\Z)")  # of descriptions, which may be cut in the middle of a tag
_WHOLE_MARKUP = _markup(">")
_BLOCK = re.compile(
    "address|article|aside|blockquote|br|caption|d[dlt]|div|figcaption|figure|footer|form|h[1-6r]|header|li|main|nav|ol|p|"
    "pre|section|summary|table|tr|ul",
    re.IGNORECASE,
)
_CELL = re.compile("td|th|option", re.IGNORECASE)
# unescape() itself fails on numbers of more than 4,300 digits.
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});?", re.IGNORECASE)
# In text that need not be HTML "AT&T", "R&D" and "salt&pepper" stand for themselves.
_WHOLE_REFERENCE = re.compile(r"&(?:(?:#\d{1,7}|#x[0-9a-f]{1,6}|lt|gt);?|[a-z][a-z0-9]{1,31};)", re.IGNORECASE)
_OPENING = re.compile(r"<(?=[a-z/!?])", re.IGNORECASE)  # what a browser takes for the beginning of a tag
_ROUNDS = 8  # only an attacker nests markup deeper

# Characters that show nothing, or that change how others are shown: format characters, bidirectional controls, tags,
# fillers, private use and noncharacters.
_UNSEEN = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
    "\ue000-\uf8ff\ufdd0-\ufdef\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0xF0000, 0x10000))
)
# Joiners and variation selectors are letters' business: Persian is misspelt without them, a Han name may become
# another, and a family of emoji falls apart. They stay where they mean something, one after a letter or an emoji.
_JOINED = (
    "\u0620-\u08ff\u0900-\u0dff\u1780-\u17b3\u17b6-\u17ff\u1820-\u18aa\ua8e0-\ua8ff"
    "\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc"
)
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0002fffd\U00030000-\U0003fffd"
_SYMBOLS = "#*0-9\xa9\xae\u203c\u2049\u2100-\u27bf\u2900-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
_INVISIBLE = re.compile(
    f"[{_UNSEEN}]"
    f"|\u200c(?<![{_JOINED}]\u200c)"
    f"|\u200d(?<![{_JOINED}]\u200d)(?!(?<=[{_SYMBOLS}\ufe0f]\u200d)[{_SYMBOLS}])"
    f"|[\ufe00-\ufe0f](?<![{_SYMBOLS}{_HAN}][\ufe00-\ufe0f])"
    f"|[\U000e0100-\U000e01ef](?<![{_HAN}][\U000e0100-\U000e01ef])"
    f"|[\u180b-\u180d\u180f](?<![\u1820-\u18aa][\u180b-\u180d\u180f])"
)
# Most texts have none of them, and looking for one of many characters takes a tenth of the time.
_MAYBE_INVISIBLE = re.compile(f"[{_UNSEEN}\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef\u180b-\u180d\u180f]")
_EMPTY_SIGNS = re.compile("[\u2800\u3164\uffa0]")  # as wide as a letter, and nothing to see


def one_line(text: str) -> str:
    """Return the text without control characters, every run of white space as one blank."""
    return " ".join(_UNSTORABLE.sub(" ", text).split())


def clean_line(text: str) -> str:
    """Return what a person sees of a text that need be no HTML, in one line.

    Markup, comments, format characters and bidirectional controls go; character references are resolved, and nothing
    that is markup then remains. "5 < 6" and "<3" stay. Cleaning what is clean changes nothing.
    """
    line = one_line(text)
    if line.isascii() and "<" not in line and "&" not in line:
        return line
    for _ in range(_ROUNDS):
        before, line = line, _cleaned(line)
        if line == before:
            return _OPENING.sub("< ", line)  # of no tag that ends
    return one_line(without_controls(line.replace("<", "").replace("&", "")))


def suggestion_line(text: str) -> str:
    """Return what a model wrote as a shop may have it: clean, and nothing that a spreadsheet takes for a formula."""
    return without_formula(clean_line(text))


def without_controls(text: str) -> str:
    """Return a text that is as its author wants it, without control, format and bidirectional characters."""
    if text.isascii() and text.isprintable():
        return text
    text = _UNSTORABLE.sub(" ", text)
    return _INVISIBLE.sub("", text) if _MAYBE_INVISIBLE.search(text) else text


def _cleaned(line: str) -> str:
    # In this order: references may stand for invisible characters, and those may break up a tag's name.
    if "&" in line:
        line = _WHOLE_REFERENCE.sub(lambda reference: unescape(reference[0]), line)
    line = without_controls(line)
    if "<" in line:
        line = _WHOLE_MARKUP.sub(_separator, line)
    return one_line(_EMPTY_SIGNS.sub(" ", line))


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
    marked = _without_markup(one_line(html[:_HTML_LIMIT]))
    lines = (one_line(_REFERENCE.sub(lambda reference: unescape(reference[0]), line)) for line in marked.split("\n"))
    return [line for line in lines if line]


def plain_text(html: str) -> str:
    """Return the visible text of an HTML fragment, blocks separated by line breaks."""
    return "\n".join(text_blocks(html))


def _without_markup(line: str) -> str:
    """Return the first _TEXT_LIMIT characters of what is visible, with separators where blocks were.

    Markup goes first: a picture before the words must not hide them.
    """
    parts: list[str] = []
    length = end = 0
    for markup in _MARKUP.finditer(line):
        parts += line[end : markup.start()], _separator(markup)
        length += markup.start() - end
        end = markup.end()
        if length >= _TEXT_LIMIT:
            return "".join(parts)[:_TEXT_LIMIT]
    return "".join([*parts, line[end:]])[:_TEXT_LIMIT]


def _separator(markup: re.Match[str]) -> str:
    tag = markup["tag"] or ""
    if _BLOCK.fullmatch(tag):
        return "\n"
    return " " if _CELL.fullmatch(tag) else ""
