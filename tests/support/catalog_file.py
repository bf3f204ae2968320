"""The example shop's file, and what an improved copy of a file may differ in."""

import csv
import io
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop-catalog.csv"
SEO = ("SEO Title", "SEO Description")


def csv_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def assert_only_seo_filled(before: Path, after: Path, *, all_filled: bool = True) -> None:
    """Columns, rows and order are kept, what stood there is kept, and each product has its missing texts."""
    old_rows, new_rows = csv_rows(before), csv_rows(after)
    assert len(old_rows) == len(new_rows)
    for old, new in zip(old_rows, new_rows, strict=True):
        assert list(old) == list(new)
        for column, value in old.items():
            if column in SEO and old["Title"] and not value:
                assert bool(new[column].strip()) is all_filled, (old["Handle"], column)
            else:
                assert new[column] == value, (old["Handle"], column)


def assert_only_seo_bytes_differ(before: Path, after: Path) -> None:
    """With the texts that were filled in taken out again, the file is the original, byte for byte."""

    def raw(row: dict[str, str]) -> str:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="").writerow([row["Gift Card"], *(row[column] for column in SEO)])
        return f",{line.getvalue()},"

    content, restored, position = after.read_bytes().decode(), "", 0
    for old, new in zip(csv_rows(before), csv_rows(after), strict=True):
        if old != new:
            found = content.index(raw(new), position)
            restored += content[position:found] + raw(old)
            position = found + len(raw(new))
    assert restored + content[position:] == before.read_bytes().decode()
