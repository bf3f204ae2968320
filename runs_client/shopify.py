"""Catalog files: Shopify product exports, read and written so that a shop can import them again.

Only SEO cells of products' first rows ever change. Unknown columns, variant and image rows, quoting, line ends, and
what stands before and after the table stay as they are.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, Self

from runs_client.catalog_columns import Columns, ambiguity, heading
from runs_client.catalog_text import CatalogText, NoCatalogTextError
from runs_client.csv_rows import CsvRow, CsvSyntaxError, is_quoted, join_rows, parse_rows, raw_cell
from servicekit.blanks import BLANKS, is_blank
from servicekit.telemetry.printable import has_control_characters, printable

SEO_TITLE, SEO_DESCRIPTION = "SEO Title", "SEO Description"
MINIMAL_HEADER = ("Handle", "Title", "Body (HTML)", SEO_TITLE, SEO_DESCRIPTION)

# A spreadsheet saves with the separator of its country.
DELIMITERS = (",", ";", "\t")


class CatalogFileError(Exception):
    """A catalog file cannot be used: the message names the file, the row, and what to do."""


@dataclass(frozen=True, slots=True)
class CatalogProduct:
    """A product as a catalog file has it."""

    handle: str
    title: str
    body_html: str
    seo_title: str
    seo_description: str


@dataclass(frozen=True, slots=True)
class Catalog:
    """A catalog file's content. Immutable: changes give a new catalog, write() a file."""

    rows: tuple[CsvRow, ...]  # the header first
    delimiter: str
    before: str = ""  # the header: byte order marks, blank lines, "sep=;"
    after: str = ""  # the last row: a Ctrl-Z

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a Shopify product export, UTF-8 with or without byte order mark.

        Raises CatalogFileError for a file that cannot be read, is no such export, or has no products.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CatalogFileError(f"{path}: cannot be read: {error.strerror}.") from error
        try:
            return cls._parse(CatalogText.of(content), str(path))
        except NoCatalogTextError as error:
            raise CatalogFileError(f"{path}: {error}") from error

    @classmethod
    def of(cls, products: Iterable[CatalogProduct]) -> Self:
        """Return a minimal catalog, of one row a product, that Shopify can import."""
        lines = [MINIMAL_HEADER]
        lines += [(p.handle, p.title, p.body_html, p.seo_title, p.seo_description) for p in products]
        return cls(tuple(CsvRow(tuple(raw_cell(value, ",") for value in line), "\n") for line in lines), ",")

    @property
    def products(self) -> tuple[CatalogProduct, ...]:
        """The products in the order of the file."""
        columns = self._columns
        return tuple(
            CatalogProduct(
                handle,
                row.value(columns.title),
                row.value(columns.body_html),
                row.value(columns.seo_title),
                row.value(columns.seo_description),
            )
            for handle, row in ((handle, self.rows[index]) for handle, index in self._first_rows().items())
        )

    @property
    def headings(self) -> tuple[str, ...]:
        """The names of the columns that have one."""
        header = self.rows[0]
        return tuple(name for column in range(len(header.cells)) if (name := heading(header, column)))

    @property
    def missing_columns(self) -> tuple[str, ...]:
        """Which of title, description, SEO title and SEO description the file has no column for, in words."""
        return self._columns.missing

    def with_seo(self, texts: Mapping[str, tuple[str, str]]) -> Self:
        """Return the catalog with (SEO title, SEO description) filled in by handle.

        A blank text leaves its cell as it is, a handle that is not in the file is passed over. A file without SEO
        columns gets them as its last ones.
        """
        catalog = self._with_seo_columns()
        columns = catalog._columns
        rows = list(catalog.rows)
        for handle, index in catalog._first_rows().items():
            for column, text in zip(
                (columns.seo_title, columns.seo_description), texts.get(handle, ("", "")), strict=True
            ):
                row = rows[index]
                if column is not None and not is_blank(text) and text != row.value(column):
                    quoted = column < len(row.cells) and is_quoted(row.cells[column])
                    rows[index] = row.with_cell(column, raw_cell(text, self.delimiter, quoted=quoted))
        return replace(catalog, rows=tuple(rows))

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the catalog, whole or not at all.

        Raises CatalogFileError when the file is there already, unless `overwrite`, or cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise CatalogFileError(f"{path}: is there already: name another file.")
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            try:
                unfinished.write_bytes(self._text.encode())
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise CatalogFileError(f"{path}: cannot be written: {error.strerror}.") from error

    @classmethod
    def _parse(cls, text: CatalogText, name: str) -> Self:
        """Read the text of the file `name`; only what can be read back whole becomes a catalog."""

        def refuse(problem: str, row: int) -> NoReturn:
            raise CatalogFileError(f"{name}, row {row + text.rows_before}: {problem}")

        if not text.table:
            raise CatalogFileError(f"{name}, row 1: the file is empty: export the products from Shopify again.")
        try:
            rows, delimiter = _split(text)
        except CsvSyntaxError as error:
            refuse(f"not CSV: {error}.", error.row)
        catalog = cls(rows, delimiter, text.before, text.after)
        if Columns.find(rows[0]) is None:
            refuse("no column Handle: is this a Shopify product export?", 1)
        if twice := ambiguity(rows[0]):
            refuse(f"{printable(twice)}: rename or delete all but one.", 1)

        columns, width = catalog._columns, len(rows[0].cells)
        handle = ""
        for number, row in enumerate(rows, start=1):
            if spoiled := [column for column, cell in enumerate(row.cells) if "\0" in cell]:
                where = printable(heading(rows[0], spoiled[0])) or f"number {spoiled[0] + 1}"
                refuse(f"a NUL character in the column {where}: delete it, or export the products again.", number)
            if number == 1 or row.is_blank:
                continue
            if not all(map(is_blank, map(row.value, range(width, len(row.cells))))):
                refuse(
                    f"{len(row.cells)} cells under a header of {width}: quote cells that have commas in them.", number
                )
            found = row.value(columns.handle).strip(BLANKS)
            if not found and (not handle or not is_blank(row.value(columns.title))):
                refuse("a product without Handle: fill it in.", number)
            handle = found or handle
            if has_control_characters(handle):
                refuse(f"a handle with a line break or control character, {printable(handle)}: take it out.", number)
        if not handle:
            refuse("no products under the header: export the products from Shopify again.", 2)
        return catalog

    @property
    def _text(self) -> str:
        return self.before + join_rows(self.rows, self.delimiter) + self.after

    @property
    def _columns(self) -> Columns:
        columns = Columns.find(self.rows[0])
        assert columns is not None  # _parse() and of() make sure of it
        return columns

    def _first_rows(self) -> dict[str, int]:
        """Return for each handle the index of the row that speaks for the product: its first with a title, else its
        first. A row without handle continues the product above it.
        """
        columns = self._columns
        first_rows: dict[str, int] = {}
        titled: set[str] = set()
        for index, row in enumerate(self.rows[1:], start=1):
            handle = row.value(columns.handle).strip(BLANKS)
            if not handle:
                continue
            first_rows.setdefault(handle, index)
            if handle not in titled and not is_blank(row.value(columns.title)):
                first_rows[handle] = index
                titled.add(handle)
        return first_rows

    def _with_seo_columns(self) -> Self:
        catalog = self
        for name, column in ((SEO_TITLE, self._columns.seo_title), (SEO_DESCRIPTION, self._columns.seo_description)):
            if column is None:
                catalog = catalog._with_column(name)
        return catalog

    def _with_column(self, name: str) -> Self:
        """Return the catalog with one more column, quoted if its other headings are."""
        header = self.rows[0]
        heading = raw_cell(name, self.delimiter, quoted=all(is_quoted(cell) for cell in header.cells))
        column = len(header.cells)
        rows = [row if row.is_empty else row.with_cell(column, "") for row in self.rows]
        rows[0] = header.with_cell(column, heading)
        return replace(self, rows=tuple(rows))


def _split(text: CatalogText) -> tuple[tuple[CsvRow, ...], str]:
    """Return the rows and the delimiter: the one that the file names or that makes a Handle column, else a comma."""
    for delimiter in (*text.separator, *DELIMITERS):
        try:
            rows = tuple(parse_rows(text.table, delimiter))
        except CsvSyntaxError:
            continue
        if Columns.find(rows[0]):
            return rows, delimiter
    return tuple(parse_rows(text.table, ",")), ","
