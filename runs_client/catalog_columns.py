"""The columns of a catalog file that we know, whichever program wrote their headings."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from runs_client.csv_rows import CsvRow
from servicekit.blanks import BLANKS

# What Shopify (old exports, newer ones, API), Matrixify and people write, without case, blanks and punctuation.
SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "handle": ("handle", "urlhandle", "producthandle"),
    "title": ("title",),
    "description": ("bodyhtml", "body", "description", "descriptionhtml", "productdescription"),
    "SEO title": (
        "seotitle",
        "metatitle",
        "titletag",
        "globaltitletag",
        "metafieldtitletag",
        "metafieldglobaltitletag",
        "metafieldsglobaltitletag",
    ),
    "SEO description": (
        "seodescription",
        "metadescription",
        "descriptiontag",
        "globaldescriptiontag",
        "metafielddescriptiontag",
        "metafieldglobaldescriptiontag",
        "metafieldsglobaldescriptiontag",
    ),
}
_TYPE = re.compile(r"\[[^\]]*\]\s*$")  # Matrixify's, as in "Metafield: title_tag [string]"


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the columns we know stand; None for one that the file does not have."""

    handle: int
    title: int | None
    body_html: int | None
    seo_title: int | None
    seo_description: int | None

    @classmethod
    def find(cls, header: CsvRow) -> Self | None:
        """Return the columns of a header, or None when it has no Handle."""
        found = _by_meaning(header)
        if not found["handle"]:
            return None
        first = {meaning: columns[0] if columns else None for meaning, columns in found.items()}
        return cls(
            found["handle"][0],
            first["title"],
            first["description"],
            first["SEO title"],
            first["SEO description"],
        )

    @property
    def missing(self) -> tuple[str, ...]:
        """What the file has no column for, in words."""
        places = (self.title, self.body_html, self.seo_title, self.seo_description)
        return tuple(meaning for meaning, place in zip(list(SPELLINGS)[1:], places, strict=True) if place is None)


def ambiguity(header: CsvRow) -> str:
    """Return which columns of a header mean the same, in words; "" when each meaning has one column at most."""
    for meaning, columns in _by_meaning(header).items():
        if len(columns) > 1:
            named = " and ".join(f'"{heading(header, column)}" (column {column + 1})' for column in columns)
            return f"{len(columns)} columns for the {meaning}, {named}"
    return ""


def heading(header: CsvRow, column: int) -> str:
    """Return a column's heading without the blanks around it."""
    return header.value(column).strip(BLANKS)


def _by_meaning(header: CsvRow) -> dict[str, list[int]]:
    names = [_plain(header.value(column)) for column in range(len(header.cells))]
    return {
        meaning: [column for column, name in enumerate(names) if name in spellings]
        for meaning, spellings in SPELLINGS.items()
    }


def _plain(name: str) -> str:
    """Return a heading without its type, case, blanks and punctuation."""
    folded = unicodedata.normalize("NFKC", _TYPE.sub("", name.strip(BLANKS))).casefold()
    return "".join(character for character in folded if character.isalnum())
