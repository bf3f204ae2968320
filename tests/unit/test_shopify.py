"""CLI-001, the file part: catalog files keep all that was not to be changed."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runs_client
from runs_client.csv_rows import CsvSyntaxError, join_rows, parse_rows, raw_cell
from runs_client.shopify import Catalog, CatalogFileError, CatalogProduct

EXAMPLE = Path(runs_client.__file__).parent.parent / "examples" / "shop-catalog.csv"

EXPORT = (
    "Handle,Title,Body (HTML),Vendor,SEO Title,SEO Description,Variant SKU\n"
    'tent,"Tent, ""Fjell""","<p>Dry.\nLight.</p>",Nordhang,,,T-1\n'
    "tent,,,,,,T-2\n"
    "becher,Becher,<p>Größe: 8 cm</p>,Hüttenzeit,Emaillebecher,,B-1\n"
    "kyusu,急須「霧」,,Atelier Brume,,急須 🍵,K-1\n"
)


def catalog(tmp_path: Path, content: str | bytes) -> Catalog:
    path = tmp_path / "catalog.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Catalog.read(path)


def written(catalog: Catalog, tmp_path: Path) -> str:
    catalog.write(tmp_path / "written.csv")
    return (tmp_path / "written.csv").read_bytes().decode()


class TestReading:
    def test_products_are_read_from_their_first_rows(self, tmp_path: Path) -> None:
        assert catalog(tmp_path, EXPORT).products == (
            CatalogProduct("tent", 'Tent, "Fjell"', "<p>Dry.\nLight.</p>", "", ""),
            CatalogProduct("becher", "Becher", "<p>Größe: 8 cm</p>", "Emaillebecher", ""),
            CatalogProduct("kyusu", "急須「霧」", "", "", "急須 🍵"),
        )

    @pytest.mark.parametrize("end", ["\r\n", "\n"])
    @pytest.mark.parametrize("mark", ["", "\ufeff"])
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_every_dialect_gives_the_same_products_and_is_kept(
        self, tmp_path: Path, end: str, mark: str, delimiter: str
    ) -> None:
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter, lineterminator=end).writerows(csv.reader(io.StringIO(EXPORT)))
        text = mark + file.getvalue()
        assert catalog(tmp_path, text).products == catalog(tmp_path, EXPORT).products
        assert written(catalog(tmp_path, text), tmp_path) == text

    def test_quoted_headings_any_case_and_blank_lines_are_fine(self, tmp_path: Path) -> None:
        text = '"HANDLE","title"\n\n"tent","Tent"\n\n'
        assert [p.title for p in catalog(tmp_path, text).products] == ["Tent"]
        assert written(catalog(tmp_path, text), tmp_path) == text

    def test_shopifys_newer_headings_are_known(self, tmp_path: Path) -> None:
        (product,) = catalog(tmp_path, "Title,URL handle,Description,SEO title\nTent,tent,<p>Dry</p>,T\n").products
        assert product == CatalogProduct("tent", "Tent", "<p>Dry</p>", "T", "")

    def test_a_handle_in_two_places_is_one_product(self, tmp_path: Path) -> None:
        products = catalog(tmp_path, "Handle,Title\ntent,Tent\nlamp,Lamp\ntent,\n").products
        assert [p.handle for p in products] == ["tent", "lamp"]

    def test_the_row_with_the_title_speaks_for_a_product_whose_rows_were_sorted(self, tmp_path: Path) -> None:
        shuffled = catalog(tmp_path, "Handle,Title,SEO Title\ntent,,\ntent,Tent,\ntent,Other,\n")
        assert [p.title for p in shuffled.products] == ["Tent"]
        assert written(shuffled.with_seo({"tent": ("T", "")}), tmp_path) == (
            "Handle,Title,SEO Title,SEO Description\ntent,,,\ntent,Tent,T,\ntent,Other,,\n"
        )

    def test_rows_without_handle_continue_the_product_above(self, tmp_path: Path) -> None:
        assert [p.handle for p in catalog(tmp_path, "Handle,Title,Image\ntent,Tent,a\n,,b\n").products] == ["tent"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "row", "problem"),
        [
            ("", "row 1", "empty"),
            ("\ufeff\n", "row 1", "empty"),
            ("Name,Title\na,b\n", "row 1", "no column Handle"),
            ("just some text", "row 1", "no column Handle"),
            ("Handle,Title\n", "row 2", "no products"),
            ("Handle,Title\n\n\n", "row 2", "no products"),
            ("Handle,Title\n,Tent\n", "row 2", "without Handle"),
            ("Handle,Title,Image\n,,a\ntent,Tent,\n", "row 2", "without Handle"),
            ("Handle,Title\ntent,Tent\n  ,Lamp\n", "row 3", "without Handle"),
            ("Handle,Title\ntent,Tent\nlamp,Lamp, big\n", "row 3", "3 cells under a header of 2"),
            ('Handle,Title\ntent,Tent\nlamp,"Lamp\n', "row 3", "not closed"),
            ('Handle,Title\ntent,"Tent"s\n', "row 2", "goes on after its closing quote"),
            ("Handle,Title\ntent,Zelt grün\n".encode("latin-1"), "line 2", "not UTF-8"),
            ("Handle,Title\ntent,Tent\n".encode("utf-16"), "", "not a CSV file"),
            (b"PK\x03\x04\x00\x00", "", "not a CSV file"),
        ],
    )
    def test_the_message_names_file_row_and_problem(
        self, tmp_path: Path, content: str | bytes, row: str, problem: str
    ) -> None:
        with pytest.raises(CatalogFileError) as refusal:
            catalog(tmp_path, content)
        message = str(refusal.value)
        assert str(tmp_path / "catalog.csv") in message
        assert row in message
        assert problem in message

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogFileError, match=r"missing\.csv: cannot be read: No such file"):
            Catalog.read(tmp_path / "missing.csv")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogFileError, match="cannot be read: Is a directory"):
            Catalog.read(tmp_path)


class TestFillingIn:
    def test_only_the_seo_cells_of_first_rows_change(self, tmp_path: Path) -> None:
        filled = catalog(tmp_path, EXPORT).with_seo(
            {"tent": ('A "dry" tent', "Light, dry\nand red"), "becher": ("", "Für die Hütte"), "gone": ("x", "y")}
        )
        assert written(filled, tmp_path) == (
            "Handle,Title,Body (HTML),Vendor,SEO Title,SEO Description,Variant SKU\n"
            'tent,"Tent, ""Fjell""","<p>Dry.\nLight.</p>",Nordhang,"A ""dry"" tent","Light, dry\nand red",T-1\n'
            "tent,,,,,,T-2\n"
            "becher,Becher,<p>Größe: 8 cm</p>,Hüttenzeit,Emaillebecher,Für die Hütte,B-1\n"
            "kyusu,急須「霧」,,Atelier Brume,,急須 🍵,K-1\n"
        )

    def test_the_catalog_it_came_from_stays_as_it_was(self, tmp_path: Path) -> None:
        original = catalog(tmp_path, EXPORT)
        original.with_seo({"tent": ("T", "D")})
        assert written(original, tmp_path) == EXPORT

    def test_what_it_says_already_is_not_written_anew(self, tmp_path: Path) -> None:
        text = 'Handle,Title,SEO Title,SEO Description\ntent,Tent,9" tent,"D"\n'
        assert written(catalog(tmp_path, text).with_seo({"tent": ('9" tent', "D")}), tmp_path) == text

    def test_a_quoted_cell_stays_quoted(self, tmp_path: Path) -> None:
        text = '"Handle","SEO Title","SEO Description"\r\n"tent","",""\r\n'
        assert written(catalog(tmp_path, text).with_seo({"tent": ("T", "")}), tmp_path) == (
            '"Handle","SEO Title","SEO Description"\r\n"tent","T",""\r\n'
        )

    def test_missing_columns_are_appended(self, tmp_path: Path) -> None:
        text = "\ufeffHandle,Title,Image\r\ntent,Tent\r\n\r\ntent,,b\r\nlamp,Lamp,c"
        assert written(catalog(tmp_path, text).with_seo({"tent": ("T", "D"), "lamp": ("", "L")}), tmp_path) == (
            "\ufeffHandle,Title,Image,SEO Title,SEO Description\r\ntent,Tent,,T,D\r\n\r\ntent,,b,,\r\nlamp,Lamp,c,,L"
        )

    def test_one_missing_column_is_appended(self, tmp_path: Path) -> None:
        text = '"Handle","SEO Title"\n"tent","T"\n'
        assert written(catalog(tmp_path, text).with_seo({"tent": ("T", "D")}), tmp_path) == (
            '"Handle","SEO Title","SEO Description"\n"tent","T",D\n'
        )

    @given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
    def test_any_text_is_read_back_as_it_was_filled_in(self, text: str) -> None:
        filled = Catalog.of([CatalogProduct("tent", "Tent", "", "", "")]).with_seo({"tent": (text, text)})
        (product,) = filled.products
        assert (product.seo_title, product.seo_description) == (text, text)
        lines = list(csv.reader(io.StringIO(join_rows(filled.rows, ","), newline="")))
        assert lines[1] == ["tent", "Tent", "", text, text]


class TestWriting:
    def test_a_file_that_is_there_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "out.csv").write_text("precious")
        with pytest.raises(CatalogFileError, match=r"out\.csv: is there already"):
            catalog(tmp_path, EXPORT).write(tmp_path / "out.csv")
        assert (tmp_path / "out.csv").read_text() == "precious"

    def test_unless_it_is_to_be_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "out.csv").write_text("old")
        catalog(tmp_path, EXPORT).write(tmp_path / "out.csv", overwrite=True)
        assert (tmp_path / "out.csv").read_text() == EXPORT

    def test_nothing_else_is_left_behind(self, tmp_path: Path) -> None:
        catalog(tmp_path, EXPORT).write(tmp_path / "out.csv")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog.csv", "out.csv"]

    def test_a_write_that_breaks_off_leaves_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_space(path: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", no_space)
        with pytest.raises(CatalogFileError, match="cannot be written: No space left"):
            catalog(tmp_path, EXPORT).write(tmp_path / "out.csv")
        assert [path.name for path in tmp_path.iterdir()] == ["catalog.csv"]

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CatalogFileError, match="cannot be written: No such file"):
            catalog(tmp_path, EXPORT).write(tmp_path / "nowhere" / "out.csv")

    def test_a_minimal_catalog_has_the_columns_shopify_needs(self, tmp_path: Path) -> None:
        products = catalog(tmp_path, EXPORT).products
        minimal = Catalog.of(products)
        assert written(minimal, tmp_path).startswith("Handle,Title,Body (HTML),SEO Title,SEO Description\n")
        assert Catalog.read(tmp_path / "written.csv").products == products


class TestExampleCatalog:
    def test_it_is_read_as_pythons_csv_module_reads_it(self) -> None:
        with EXAMPLE.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["Title"]]
        assert [p.handle for p in Catalog.read(EXAMPLE).products] == [row["Handle"] for row in rows]
        assert [p.body_html for p in Catalog.read(EXAMPLE).products] == [row["Body (HTML)"] for row in rows]
        assert [p.seo_title for p in Catalog.read(EXAMPLE).products] == [row["SEO Title"] for row in rows]

    def test_it_is_worth_a_demo(self) -> None:
        example = Catalog.read(EXAMPLE)
        products = example.products
        assert len(products) >= 48
        assert len(example.rows) > 2 * len(products)  # variants and images
        assert len(products) / 4 <= sum(bool(p.seo_title or p.seo_description) for p in products) <= len(products) / 2
        assert any(p.seo_title and not p.seo_description for p in products)
        assert any(p.seo_description and not p.seo_title for p in products)

    def test_it_is_written_back_byte_for_byte(self, tmp_path: Path) -> None:
        Catalog.read(EXAMPLE).write(tmp_path / "same.csv")
        assert (tmp_path / "same.csv").read_bytes() == EXAMPLE.read_bytes()

    def test_filled_in_only_the_empty_seo_cells_differ(self, tmp_path: Path) -> None:
        example = Catalog.read(EXAMPLE)
        filled = example.with_seo(
            {p.handle: (p.seo_title or "T, ü", p.seo_description or 'D "x"') for p in example.products}
        )
        filled.write(tmp_path / "filled.csv")
        with (
            EXAMPLE.open(newline="", encoding="utf-8") as before,
            (tmp_path / "filled.csv").open(newline="", encoding="utf-8") as after,
        ):
            pairs = list(zip(csv.DictReader(before), csv.DictReader(after), strict=True))
        for old, new in pairs:
            expected = dict(old)
            if old["Title"]:
                expected |= {
                    "SEO Title": old["SEO Title"] or "T, ü",
                    "SEO Description": old["SEO Description"] or 'D "x"',
                }
            assert new == expected


cells = st.text(st.sampled_from('a"\n\r,; ü'), max_size=6)


class TestCsvRows:
    @given(
        st.lists(st.lists(cells, min_size=2, max_size=4), min_size=1, max_size=5),
        st.sampled_from([",", ";", "\t"]),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    )
    def test_values_are_those_of_pythons_csv_module(
        self, table: list[list[str]], delimiter: str, end: str, quoting: int
    ) -> None:
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting).writerows(table)  # type: ignore[arg-type]
        expected = list(csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=delimiter))
        rows = parse_rows(file.getvalue(), delimiter)
        assert [[row.value(index) for index in range(len(row.cells)) if not row.is_empty] for row in rows] == expected

    @given(st.text(st.sampled_from('a"\n\r,')))
    def test_whatever_is_parsed_is_joined_to_the_same_text(self, text: str) -> None:
        try:
            rows = parse_rows(text, ",")
        except CsvSyntaxError:
            return
        assert join_rows(rows, ",") == text

    @given(st.text())
    def test_a_raw_cell_means_its_value(self, value: str) -> None:
        (row,) = parse_rows("a," + raw_cell(value, ","), ",")
        assert row.value(1) == value

    def test_an_unclosed_quote_in_a_large_file_is_found_in_linear_time(self) -> None:
        with pytest.raises(CsvSyntaxError):
            parse_rows('a,"' + 'xyz""' * 1_000_000, ",")
