"""CSV text as rows of raw cells, so that unchanged cells are written back byte for byte."""

import re
from dataclasses import dataclass
from typing import Self

from servicekit.blanks import is_blank


class CsvSyntaxError(ValueError):
    """The text is not CSV; carries the number of the row, the first being 1."""

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(problem)
        self.row = row


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row: its cells as they stand in the file, quotes included, and the line end after it."""

    cells: tuple[str, ...]
    end: str  # "\n", "\r\n", "\r", or "" at the end of the file

    def value(self, column: int | None) -> str:
        """Return the text that a cell means; "" for one that the row, or the file, does not have."""
        if column is None or column >= len(self.cells):
            return ""
        cell = self.cells[column]
        return cell[1:-1].replace('""', '"') if is_quoted(cell) else cell

    def with_cell(self, column: int, cell: str) -> Self:
        """Return the row with one raw cell set; a row that is too short grows by empty cells."""
        cells = [*self.cells, *[""] * (column + 1 - len(self.cells))]
        cells[column] = cell
        return type(self)(tuple(cells), self.end)

    @property
    def is_empty(self) -> bool:
        """Whether the line has no characters."""
        return self.cells == ("",)

    @property
    def is_blank(self) -> bool:
        """Whether no cell shows anything."""
        return all(is_blank(self.value(column)) for column in range(len(self.cells)))


def parse_rows(text: str, delimiter: str) -> list[CsvRow]:
    """Split CSV text of any line end into rows; joined again, they give the same text.

    Raises CsvSyntaxError for a quoted cell that is never closed, or that goes on after its closing quote.
    """
    separator = re.escape(delimiter)
    # The possessive loop keeps an unclosed quote from being tried in every other way.
    next_cell = re.compile(rf'("(?:[^"]+|"")*+"|[^"{separator}\r\n][^{separator}\r\n]*|)({separator}|\r\n|\n|\r|\Z)')
    rows: list[CsvRow] = []
    cells: list[str] = []
    position = 0
    while position < len(text) or cells:
        match = next_cell.match(text, position)
        if match is None:
            raise CsvSyntaxError(len(rows) + 1, "a quoted cell is not closed, or goes on after its closing quote")
        cell, end = match.groups()
        cells.append(cell)
        position = match.end()
        if end != delimiter:
            rows.append(CsvRow(tuple(cells), end))
            cells = []
    return rows


def join_rows(rows: list[CsvRow] | tuple[CsvRow, ...], delimiter: str) -> str:
    """Return the CSV text of rows."""
    return "".join(delimiter.join(row.cells) + row.end for row in rows)


def is_quoted(cell: str) -> bool:
    """Whether a raw cell stands in quotes."""
    return cell.startswith('"')


def raw_cell(value: str, delimiter: str, *, quoted: bool = False) -> str:
    """Return the raw cell for a value, quoted where CSV needs it or where `quoted` asks for it."""
    if quoted or any(special in value for special in (delimiter, '"', "\r", "\n")):
        return '"' + value.replace('"', '""') + '"'
    return value
