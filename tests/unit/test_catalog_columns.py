"""Columns are known by what people and programs call them, and keep their names."""

from pathlib import Path

import pytest

from runs_client.catalog_mapping import missing_columns
from runs_client.shopify import Catalog, CatalogFileError


def read(folder: Path, text: str) -> Catalog:
    path = folder / "catalog.csv"
    path.write_bytes(text.encode())
    return Catalog.read(path)


@pytest.mark.parametrize(
    "heading",
    [
        *("Body (HTML)", "Body HTML", "BodyHtml", "body_html", "BODY_HTML", "Body(HTML)", " body  html ", "Body-HTML"),
        *("\ufeffBody\u00a0(HTML)", "Description", "descriptionHtml", "Body"),
    ],
)
def test_the_description(tmp_path: Path, heading: str) -> None:
    found = read(tmp_path, f"Handle,Title,{heading}\ntent,Tent,<p>Dry</p>\n")
    assert [product.body_html for product in found.products] == ["<p>Dry</p>"]


@pytest.mark.parametrize(
    ("title", "description"),
    [
        ("SEO Title", "SEO Description"),
        ("seo_title", "seo_description"),
        ("SeoTitle", "SeoDescription"),
        ("SEO-title ", "\u200bSEO-description"),
        ("Metafield: title_tag [string]", "Metafield: description_tag [string]"),
        ("Metafield: title_tag [single_line_text_field]", "Metafield: description_tag [multi_line_text_field]"),
        ("metafield: global.title_tag", "METAFIELD: global.description_tag [string]"),
        ("metafields_global_title_tag", "metafields_global_description_tag"),
        ("Meta Title", "Meta description"),
        ("title_tag", "description_tag"),
    ],
)
def test_the_seo_texts_are_read_and_written_back_under_the_name_that_was_found(
    tmp_path: Path, title: str, description: str
) -> None:
    header = f"Handle,{title},{description},Title\n"
    found = read(tmp_path, header + "tent,T,D,Tent\nlamp,,,Lamp\n")
    assert [(p.seo_title, p.seo_description) for p in found.products] == [("T", "D"), ("", "")]
    found.with_seo({"lamp": ("New", "Text")}).write(tmp_path / "written.csv")
    assert (tmp_path / "written.csv").read_text() == header + "tent,T,D,Tent\nlamp,New,Text,Lamp\n"


@pytest.mark.parametrize("heading", ["Handle", "HANDLE", "url_handle", "URL handle", " Handle\u200b"])
def test_the_handle(tmp_path: Path, heading: str) -> None:
    assert [product.handle for product in read(tmp_path, f"Title,{heading}\nTent,tent\n").products] == ["tent"]


@pytest.mark.parametrize(
    "heading",
    [
        "Variant Metafield: title_tag [string]",
        "Metafield: custom.title [string]",
        "Image Alt Text",
        "Google Shopping / Title",
    ],
)
def test_other_columns_are_none_of_ours(tmp_path: Path, heading: str) -> None:
    found = read(tmp_path, f"Handle,Title,{heading},SEO Title,SEO Description,Body HTML\ntent,Tent,x,,,\n")
    assert not missing_columns(found)
    assert [product.seo_title for product in found.products] == [""]


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (
            "Handle,Title,SEO Title,SEO Title",
            '2 columns for the SEO title, "SEO Title" (column 3) and "SEO Title" (column 4)',
        ),
        (
            "Handle,Title,SEO Description,seo_description",
            '"SEO Description" (column 3) and "seo_description" (column 4)',
        ),
        (
            "Handle,SEO Title,Metafield: title_tag [string]",
            '"SEO Title" (column 2) and "Metafield: title_tag [string]"',
        ),
        ("Handle,Title,title", '2 columns for the title, "Title" (column 2) and "title" (column 3)'),
        (
            "Handle,Title,Body (HTML),Description",
            '2 columns for the description, "Body (HTML)" (column 3) and "Description"',
        ),
        ("Handle,URL handle,Title", '2 columns for the handle, "Handle" (column 1) and "URL handle" (column 2)'),
    ],
)
def test_two_columns_of_one_meaning_are_refused_by_name(tmp_path: Path, header: str, named: str) -> None:
    with pytest.raises(CatalogFileError) as refusal:
        read(tmp_path, f"{header}\na,b,c,d\n"[: len(header) + 6] + "\n")
    assert "row 1" in str(refusal.value)
    assert named in str(refusal.value)


def test_what_was_not_found_is_said_with_the_columns_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, "Handle,Title,Beschreibung,,Page SEO\ntent,Tent,<p>Trocken</p>,,x\n")
    line = missing_columns(found)
    assert "no column found for description, SEO title or SEO description" in line
    assert "the file has Handle, Title, Beschreibung, Page SEO." in line
    assert not missing_columns(read(tmp_path, "Handle,Title,Body HTML,seo_title,seo description\ntent,Tent,,,\n"))
