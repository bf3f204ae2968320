"""Text from others, as a terminal and a log may show it: no part of it is a command, ends a line or is invisible.

Product titles, keys, user ids and error texts hold what their authors like. A terminal obeys control characters: it
retitles windows, writes the clipboard (OSC 52), moves the cursor over what stands there. A line break begins a line
that looks like one of ours.
"""

import re
from re import Match
from typing import Final

# C0, DEL and C1 (ESC, BEL, CSI, OSC and line breaks among them), U+2028 and U+2029.
_CONTROL: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
# What reorders the text around it (bidirectional controls), what shows nothing (zero-width spaces, tags), and halves of
# characters, which no stream can write. U+200C and U+200D stay: words and emoji are made with them.
_HIDDEN: Final = r"\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
_HIDDEN_ASTRAL: Final = r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"

_UNPRINTABLE: Final = re.compile(f"[{_CONTROL}{_HIDDEN}{_HIDDEN_ASTRAL}]")
_CONTROLS: Final = re.compile(f"[{_CONTROL}]")
_SHORT: Final = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
CONTINUED: Final = "    | "  # begins each further line of a text: nothing of ours begins so


def printable(text: str) -> str:
    r"""Return `text` on one line, with each character that is none to look at escaped: `\n`, `\x1b`, `\u2028`.

    A backslash stays one, so what is printable stays as it is, and a second time changes nothing.
    """
    # isprintable() needs a tenth of the time. It is stricter than we are, so only what it refuses is searched.
    return text if text.isprintable() else _UNPRINTABLE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Return `text` on as many lines as it has, each but the first marked as a continuation of the one before."""
    return f"\n{CONTINUED}".join(printable(line) for line in text.split("\n"))


def printable_json(document: str) -> str:
    r"""Return a JSON document that stands on one line with the same characters escaped inside its strings (`\u009b`).

    It is still JSON and means the same.
    """
    if document.isascii() and "\x7f" not in document:
        return document  # the encoder has escaped the other ones; most log lines end here
    return document if document.isprintable() else _UNPRINTABLE.sub(_escaped_for_json, document)


def has_control_characters(text: str) -> bool:
    """Tell whether `text` has a character that a terminal obeys or that ends a line: no id has."""
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
