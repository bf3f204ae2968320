"""The text of a catalog file, and what spreadsheets put before and after it."""

import re
from dataclasses import dataclass
from typing import Final, Self

from servicekit.blanks import BLANKS, is_blank

BYTE_ORDER_MARK: Final = "\ufeff"
_SAVE_AS = 'in Excel, save it as "CSV UTF-8 (Comma delimited)"; elsewhere, export it as CSV in UTF-8'

_BLANK = re.escape("".join(blank for blank in BLANKS if blank not in "\r\n"))
# A byte order mark, also one that was read in Windows' own encoding and saved again; a line that shows nothing; the
# line that names Excel the separator. The loops are possessive: a long blank line is tried in one way only.
_BEFORE = re.compile(
    rf"""
      \ufeff | ï»¿
    | (?:[{_BLANK},;|]|"")*+ (?:\r\n|\n|\r)
    | "?sep=(?P<separator>[^\r\n"])"? (?:[{_BLANK},;|]|"")*+ (?:\r\n|\n|\r)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_END = "\x1a"  # Ctrl-Z: how MS-DOS, and some programs still, end a text; what they fill the file up with follows

_WORKBOOKS = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF",
}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class NoCatalogTextError(ValueError):
    """A file's content is no text that we read; says why and what to do."""


@dataclass(frozen=True, slots=True)
class CatalogText:
    """A file's text in three parts, which joined give the file again."""

    before: str  # byte order marks, blank lines, "sep=;"
    table: str  # from the header on
    after: str  # from a final Ctrl-Z on
    separator: str  # that "sep=;" names; "" without such a line

    @classmethod
    def of(cls, content: bytes) -> Self:
        """Take a file's bytes apart. Raises NoCatalogTextError when they are not UTF-8."""
        text = _decoded(content)
        start, separator = 0, ""
        while found := _BEFORE.match(text, start):
            start = found.end()
            separator = found["separator"] or separator
        end = text.find(_END, max(start, len(text.rstrip(_END + " \t\r\n\0"))))
        end = len(text) if end < 0 else end
        return cls(text[:start], "" if is_blank(text[start:end]) else text[start:end], text[end:], separator)

    @property
    def rows_before(self) -> int:
        """How many rows a spreadsheet shows before the header."""
        return len(re.findall(r"\r\n|\n|\r", self.before))


def _decoded(content: bytes) -> str:
    for beginning, kind in _WORKBOOKS.items():
        if content.startswith(beginning):
            raise NoCatalogTextError(f"not a CSV file but {kind}: export or save it as CSV, UTF-8.")
    # Text in UTF-16 has a NUL beside every ASCII character.
    if content.startswith(_UTF_16) or (len(content) > 1 and content.count(0) * 3 > len(content)):
        raise NoCatalogTextError(f'not UTF-8 but UTF-16 or the like (Excel\'s "Unicode Text"): {_SAVE_AS}.')
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\n|\r", content[: error.start])) + 1
        byte = content[error.start : error.start + 1]
        meant = byte.decode("cp1252", "ignore")
        likely = f', perhaps "{meant}" in Windows-1252' if meant else ""
        raise NoCatalogTextError(f"line {line}: not UTF-8 (byte 0x{byte.hex()}{likely}): {_SAVE_AS}.") from error
