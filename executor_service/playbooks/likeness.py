"""Texts as people compare them: graphemes, and what two spellings of one text have in common."""

import unicodedata
from collections.abc import Iterator
from typing import Final

_QUOTES: Final = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u2035\uff07", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u2036\uff02", '"')
)
_FIRST_COMBINING: Final = "\u0300"
_ZERO_WIDTH_JOINER: Final = "\u200d"
_EXTENDING: Final = frozenset("\u200c\u200d\uff9e\uff9f\u0e33\u0eb3")  # besides the combining marks
_SKIPPED: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")  # show nothing
_VIRAMAS: Final = frozenset("\u094d\u09cd\u0acd\u0b4d\u0c4d\u0d4d")  # what follows one belongs to the same sign


def graphemes(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each grapheme of the text begins and ends: what a person takes for one character."""
    start = 0
    flags = 0  # regional indicators in a row up to here
    for at in range(1, len(text)):
        before, character = text[at - 1], text[at]
        flags = flags + 1 if _is_flag_part(before) else 0
        if not _are_joined(before, character, flags):
            yield start, at
            start = at
    if text:
        yield start, len(text)


def cut(text: str, room: int) -> str:
    """Return the longest beginning of whole graphemes that has at most `room` characters (code points)."""
    end = 0
    # The cut depends on one more character only: whether it continues the last grapheme.
    for _, stop in graphemes(text[: room + 1]):
        if stop > room:
            break
        end = stop
    return text[:end]


def likeness(text: str) -> str:
    """Return what texts have in common that differ in case, width, ligatures, quotes and what shows nothing."""
    if text.isascii():
        return text.lower()
    return "".join(_folded(text[start:end]) for start, end in graphemes(text))


def replace_alike(text: str, find: str, replacement: str) -> str:
    """Return the text with every part that is like `find` replaced; such a part is whole graphemes."""
    wanted = likeness(find)
    if not wanted:
        return text
    folded: list[str] = []
    starts: dict[int, int] = {}  # from places in what is compared to those in the text
    ends: dict[int, int] = {}
    length = 0
    for start, end in graphemes(text):
        if part := _folded(text[start:end]):
            folded.append(part)
            starts[length] = start
            length += len(part)
            ends[length] = end
    compared = "".join(folded)
    parts, done, at = [], 0, compared.find(wanted)
    while at >= 0:
        stop = at + len(wanted)
        if at in starts and stop in ends:
            parts += [text[done : starts[at]], replacement]
            done = ends[stop]
        else:
            stop = at + 1
        at = compared.find(wanted, stop)
    return "".join([*parts, text[done:]])


def _folded(grapheme: str) -> str:
    if grapheme.isascii():
        return grapheme.lower()
    shown = "".join(character for character in grapheme.translate(_QUOTES) if not _shows_nothing(character))
    once = unicodedata.normalize("NFKC", shown).casefold()
    return unicodedata.normalize("NFKC", once).translate(_QUOTES)


def _shows_nothing(character: str) -> bool:
    if character < "\xad":
        return False
    return unicodedata.category(character) == "Cf" or character in _SKIPPED or _is_variation_selector(character)


def _is_variation_selector(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _are_joined(before: str, after: str, flags: int) -> bool:
    """Whether two characters are parts of one grapheme (Unicode's UAX 29, as far as unicodedata covers it)."""
    if after < _FIRST_COMBINING:
        return before == "\r" and after == "\n"
    if _extends(after):
        return before >= " " and not "\x7f" <= before < "\xa0"
    if before == _ZERO_WIDTH_JOINER:
        return unicodedata.category(after) == "So"  # emoji
    if before in _VIRAMAS:
        return unicodedata.category(after) == "Lo"
    if _is_flag_part(after):
        return flags % 2 == 1
    return _are_of_one_syllable(before, after)


def _extends(character: str) -> bool:
    return (
        character in _EXTENDING
        or unicodedata.category(character) in ("Mn", "Me", "Mc")
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin
        or "\U000e0020" <= character <= "\U000e007f"  # tags: the flags of England, Scotland and Wales
    )


def _is_flag_part(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _are_of_one_syllable(before: str, after: str) -> bool:
    """The same for Hangul written in letters."""
    leads, ends = "\u1100" <= before <= "\u115f", "\u11a8" <= after <= "\u11ff"
    vowel = "\u1160" <= after <= "\u11a7"
    if leads:
        return vowel or "\u1100" <= after <= "\u115f" or "\uac00" <= after <= "\ud7a3"
    if "\u1160" <= before <= "\u11a7":
        return vowel or ends
    if "\uac00" <= before <= "\ud7a3":
        return ends or (vowel and (ord(before) - 0xAC00) % 28 == 0)
    return "\u11a8" <= before <= "\u11ff" and ends
