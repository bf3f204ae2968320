"""Makes untrusted text safe for terminals and logs: nothing in it is a command, ends a line or is invisible.

Product titles, keys, user ids and error texts can contain anything. A terminal obeys control characters: it retitles
windows, writes the clipboard (OSC 52) and overwrites other text. A line break can forge a line of the log.
"""

import re
from re import Match
from typing import Final

# C0, DEL and C1 (ESC, BEL, CSI, OSC and line breaks among them), U+2028 and U+2029.
_CONTROL: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
# Bidirectional controls reorder the text around them; zero-width spaces and tags are invisible; surrogates cannot be
# written to a stream. U+200C and U+200D stay: words and emoji are made with them.
_HIDDEN: Final = r"\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
_HIDDEN_ASTRAL: Final = r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"

_UNPRINTABLE: Final = re.compile(f"[{_CONTROL}{_HIDDEN}{_HIDDEN_ASTRAL}]")
_CONTROLS: Final = re.compile(f"[{_CONTROL}]")
_SHORT: Final = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
CONTINUED: Final = "    | "  # the prefix of continuation lines; no log line of ours begins with it


def printable(text: str) -> str:
    r"""Return `text` on one line with its unprintable characters escaped: `\n`, `\x1b`, `\u2028`.

    Backslashes are not escaped, so printable text does not change, and a second call changes nothing.
    """
    # isprintable() takes a tenth of the time. It is stricter than we are, so only the texts it refuses are searched.
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Return `text` with its line breaks, each line but the first marked as a continuation."""
    return f"\n{CONTINUED}".join(printable(line) for line in text.split("\n"))


def printable_json(document: str) -> str:
    r"""Return a one-line JSON document with the unprintable characters in its strings escaped (`\u009b`).

    It has the same meaning.
    """
    if document.isascii() and "\x7f" not in document:
        return document  # the encoder has escaped the others; most log lines return here
    return document if document.isprintable() else _UNPRINTABLE.sub(_escaped_for_json, document)


def has_control_characters(text: str) -> bool:
    """Return whether `text` has a character that a terminal obeys or that ends a line."""
    return not text.isprintable() and _CONTROLS.search(text) is not None


def _escaped(found: Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if code <= 0xFF:
        return _SHORT.get(character) or f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _escaped_for_json(found: Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
