"""What spreadsheets put around and into a catalog file is read past, and written back as it stood."""

from pathlib import Path

import pytest

from runs_client.shopify import Catalog, CatalogFileError
from servicekit.blanks import BLANKS

HEADER = "Handle,Title,SEO Title,SEO Description\n"
TABLE = HEADER + "tent,Tent,,\nlamp,Lamp,,\n"


def read(folder: Path, content: str | bytes) -> Catalog:
    path = folder / "catalog.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Catalog.read(path)


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(CatalogFileError) as refused:
        read(folder, content)
    return str(refused.value).replace(str(folder), "")


@pytest.mark.parametrize(
    "before",
    [
        "sep=,\n",
        "\ufeffsep=,\r\n",
        "sep=,\n\ufeff",
        '"sep=,"\n',
        "SEP=,,,,\n",
        "\n",
        "\r\n \t\r\n",
        ",,,\n",
        '"","",""\n',
        "\u3000\u200b\n",
        "\ufeff\ufeff",
        "\ufeff\n\ufeffsep=,\n\n",
        "\ufeffï»¿",
    ],
)
@pytest.mark.parametrize("after", ["", "\x1a", "\x1a\r\n", "\n\x1a", "\x1a\x1a", "\x1a\0\0\0"])
def test_what_stands_around_the_table_is_read_past_and_kept(tmp_path: Path, before: str, after: str) -> None:
    found = read(tmp_path, before + TABLE + after)
    assert [product.handle for product in found.products] == ["tent", "lamp"]
    assert found.missing_columns == ("description",)
    found.with_seo({"lamp": ("L", "D")}).write(tmp_path / "written.csv")
    expected = before + TABLE.replace("lamp,Lamp,,", "lamp,Lamp,L,D") + after
    assert (tmp_path / "written.csv").read_bytes().decode() == expected


@pytest.mark.parametrize("separator", [";", "\t", "|", "^"])
def test_the_separator_that_the_first_line_names_is_used(tmp_path: Path, separator: str) -> None:
    (product,) = read(tmp_path, f"sep={separator}\r\n" + "Handle,Title\r\ntent,Zelt".replace(",", separator)).products
    assert (product.handle, product.title) == ("tent", "Zelt")


def test_a_wrong_separator_line_does_no_harm(tmp_path: Path) -> None:
    assert len(read(tmp_path, "sep=;\n" + TABLE).products) == 2


@pytest.mark.parametrize("extra", [",", ",,,", ', ,"",\u3000', ",\u200b"])
def test_empty_cells_beyond_the_header_are_read_past(tmp_path: Path, extra: str) -> None:
    text = HEADER + f"tent,Tent,,{extra}\n"
    assert len(read(tmp_path, text).products) == 1
    read(tmp_path, text).write(tmp_path / "written.csv")
    assert (tmp_path / "written.csv").read_bytes().decode() == text


def test_new_columns_stand_under_their_headings_beside_empty_cells(tmp_path: Path) -> None:
    filled = read(tmp_path, "Handle,Title\ntent,Tent,,,\nlamp,Lamp\n").with_seo({"tent": ("T", "D")})
    filled.write(tmp_path / "written.csv")
    assert Catalog.read(tmp_path / "written.csv").products == filled.products
    assert [(p.seo_title, p.seo_description) for p in filled.products] == [("T", "D"), ("", "")]


@pytest.mark.parametrize("row", [",,,", " , ,\t,", "\u200b,,,\u3000", '"",,,'])
def test_rows_that_show_nothing_are_no_products(tmp_path: Path, row: str) -> None:
    found = read(tmp_path, f"{HEADER}{row}\ntent,Tent,,\n{row}\n{row}\n")
    assert [product.handle for product in found.products] == ["tent"]


@pytest.mark.parametrize("blank", list(BLANKS))
def test_a_handle_of_blanks_is_none(tmp_path: Path, blank: str) -> None:
    assert "row 2: a product without Handle" in refusal(tmp_path, f'Handle,Title\n"{blank}",Tent\n')


@pytest.mark.parametrize("blank", ["\u200b", "\u3000", "\xa0 ", "\ufeff"])
def test_a_blank_text_replaces_none(tmp_path: Path, blank: str) -> None:
    found = read(tmp_path, HEADER + "tent,Tent,Good title,\n")
    assert found.with_seo({"tent": (blank, blank)}) == found


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEADER + "tent,Te\0nt,,\n", "row 2: a NUL character in the column Title"),
        ("sep=,\n\n" + HEADER + "tent,Tent,,\nlamp,Lamp,,\0\n", "row 5: a NUL character in the column SEO Description"),
        ("Han\0dle,Title\ntent,Tent\n", "row 1: a NUL character in the column Han"),
        (HEADER + "tent,Tent,,,\0\n", "row 2: a NUL character in the column number 5"),
        (TABLE + "\0", "row 4: a NUL character in the column Handle"),
    ],
)
def test_a_nul_names_its_row_and_column(tmp_path: Path, text: str, place: str) -> None:
    assert place in refusal(tmp_path, text)


def test_rows_are_counted_from_the_top_of_the_file(tmp_path: Path) -> None:
    text = "\ufeffsep=,\r\n\r\n" + HEADER + "tent,T\n,Lamp\n"
    assert "row 5: a product without Handle" in refusal(tmp_path, text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_unicode_says_how_to_save_the_file(tmp_path: Path, encoding: str) -> None:
    message = refusal(tmp_path, TABLE.encode(encoding))
    assert "UTF-16" in message
    assert "CSV UTF-8" in message


def test_windows_1252_says_where_and_how_to_save_the_file(tmp_path: Path) -> None:
    message = refusal(tmp_path, (HEADER + "tent,Zelt grün,,\n").encode("cp1252"))
    assert "line 2" in message
    assert '"ü" in Windows-1252' in message
    assert "CSV UTF-8" in message


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"PK\x03\x04\0\0", "an Excel workbook"), (b"\xd0\xcf\x11\xe0", "old Excel"), (b"\x1f\x8b", "gzip")],
)
def test_no_text_is_named(tmp_path: Path, content: bytes, kind: str) -> None:
    assert kind in refusal(tmp_path, content)


def test_long_blanks_before_and_after_are_read_in_linear_time(tmp_path: Path) -> None:
    assert len(read(tmp_path, "\n" * 100_000 + TABLE + "\n" * 100_000).products) == 2
    assert "no column Handle" in refusal(tmp_path, " ,;" * 20_000)
