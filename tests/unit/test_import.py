"""`playbook-runs import` checks a whole file before it stores anything, and says what it stored when a call fails."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as pb
from playbooks.executor.v1 import catalog_service_pb2_grpc as catalog_grpc

from runs_client.__main__ import build_app
from runs_client.catalog_limits import fit
from runs_client.catalog_mapping import fill_in, to_product
from runs_client.failures import CommandError
from runs_client.shopify import Catalog, CatalogFileError, CatalogProduct
from servicekit.rpc.validation import violations_of

HEADER = "Handle,Title,Body (HTML),SEO Title,SEO Description\n"


class Shop(catalog_grpc.CatalogServiceServicer):
    """A catalog that takes some batches, then fails."""

    def __init__(self, batches: int = 100, code: grpc.StatusCode = grpc.StatusCode.INTERNAL) -> None:
        self.projects = 0
        self.stored: list[pb.Product] = []
        self._batches = batches
        self._code = code

    def PutProject(self, request: pb.PutProjectRequest, context: grpc.ServicerContext) -> pb.PutProjectResponse:
        self.projects += 1
        return pb.PutProjectResponse()

    def PutProducts(self, request: pb.PutProductsRequest, context: grpc.ServicerContext) -> pb.PutProductsResponse:
        if violations := violations_of(request):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(violations))
        if not self._batches:
            context.abort(self._code, "the disk is full")
        self._batches -= 1
        self.stored += request.products
        return pb.PutProductsResponse(created=len(request.products))

    # Of the other calls an import makes none.
    def GetProject(self, request: pb.GetProjectRequest, context: grpc.ServicerContext) -> pb.GetProjectResponse:
        raise NotImplementedError

    def ListProducts(self, request: pb.ListProductsRequest, context: grpc.ServicerContext) -> pb.ListProductsResponse:
        raise NotImplementedError

    def DeleteProducts(
        self, request: pb.DeleteProductsRequest, context: grpc.ServicerContext
    ) -> pb.DeleteProductsResponse:
        raise NotImplementedError


@contextmanager
def serving(shop: Shop) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    catalog_grpc.add_CatalogServiceServicer_to_server(shop, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def import_(shop: Shop, file: Path) -> None:
    with serving(shop) as target:
        arguments = ["import", str(file), "--project", "p", "--executor-target", target, "--token", "t"]
        build_app()(arguments, standalone_mode=False)


def written(folder: Path, *rows: str) -> Path:
    path = folder / "catalog.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


PICTURE = '<img src=""data:image/png;base64,' + "QUJD" * 20_000 + '"">'


@pytest.mark.parametrize("length", [65_536, 65_537, 500_000])
def test_a_long_description_is_cut_with_a_warning_that_names_the_product(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int
) -> None:
    shop = Shop()
    rows = [f"h{number},T,<p>y</p>,," for number in range(1_100)]
    rows[700] = f"h700,T,{'x' * length},,"
    import_(shop, written(tmp_path, *rows))
    output = capsys.readouterr()
    assert [product.id for product in shop.stored] == [f"h{number}" for number in range(1_100)]
    assert shop.stored[700].description == "x" * 65_536
    assert "1100 products in p" in output.out
    warnings = output.err.splitlines()
    if length == 65_536:
        assert warnings == []
    else:
        (warning,) = warnings
        assert f"h700: its description has {length:,} characters, of which the catalog takes 65,536" in warning
        assert "--catalog" in warning


def test_of_a_long_description_the_words_behind_its_pictures_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop()
    import_(shop, written(tmp_path, f'bowl,Bowl,"{PICTURE}<p>Turned from one piece of oak.</p>{PICTURE}",,'))
    assert shop.stored[0].description == (
        '<img src="data:image/png;base64,"><p>Turned from one piece of oak.</p><img src="data:image/png;base64,">'
    )
    assert "bowl: its description has" in capsys.readouterr().err


@pytest.mark.parametrize("ballast", ["<!-- {} -->", "<style>{}</style>", "<SCRIPT type='x'>{}</SCRIPT >"])
def test_of_a_long_description_the_words_behind_what_nobody_sees_are_kept(ballast: str) -> None:
    body = f"{ballast.format('word ' * 14_000)}<p>Turned by hand</p>"
    (product,), (warning,) = fit([CatalogProduct("bowl", "Bowl", body, "", "")])
    assert product.body_html == "<p>Turned by hand</p>"
    assert "its description has 70," in warning


def test_every_text_that_is_too_long_is_cut_and_named() -> None:
    long = CatalogProduct("bowl", "t" * 1_001, "d" * 70_000, "s" * 1_002, "e" * 5_001)
    (product,), (warning,) = fit([long])
    assert [len(text) for text in (product.title, product.body_html, product.seo_title, product.seo_description)] == [
        1_000,
        65_536,
        1_000,
        5_000,
    ]
    assert not violations_of(pb.PutProductsRequest(project_id="p", products=[to_product(product)]))
    for noun in ("title has 1,001", "description has 70,000", "SEO title has 1,002", "SEO description has 5,001"):
        assert f"its {noun} characters" in warning


def test_an_export_does_not_write_a_cut_text_over_the_whole_one(tmp_path: Path) -> None:
    original = Catalog.read(written(tmp_path, f"bowl,Bowl,,{'s' * 1_002},", "cup,Cup,,,"))
    stored = [to_product(product) for product in fit(original.products)[0]]
    stored[0].seo_description = "New"
    improved, changed = fill_in(original, stored)
    assert changed == 1
    assert improved.products[0] == CatalogProduct("bowl", "Bowl", "", "s" * 1_002, "New")


def test_what_cannot_be_stored_refuses_the_file_before_anything_is(tmp_path: Path) -> None:
    shop = Shop()
    rows = [f"h{number},T,,," for number in range(700)]
    with pytest.raises(CatalogFileError, match="at most 255 characters, this one 256"):
        import_(shop, written(tmp_path, *rows, f"{'h' * 256},T,,,"))
    assert (shop.projects, shop.stored) == (0, [])


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE])
def test_a_call_that_fails_half_way_says_what_is_stored_and_what_to_do(tmp_path: Path, code: grpc.StatusCode) -> None:
    shop = Shop(batches=1, code=code)
    with pytest.raises(CommandError) as failure:
        import_(shop, written(tmp_path, *(f"h{number},T,,," for number in range(1_100))))
    message = str(failure.value)
    assert "500 of 1100 products are stored in p, 500 of them new: import the file again" in message
    assert len(shop.stored) == 500


def test_columns_that_are_not_found_are_named_and_the_file_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop()
    path = tmp_path / "catalog.csv"
    path.write_text("Handle,Title,Beschreibung\nbowl,Bowl,<p>Oak</p>\n")
    import_(shop, path)
    assert [product.id for product in shop.stored] == ["bowl"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "no column found for description, SEO title or SEO description" in line
    assert "Handle, Title, Beschreibung" in line


def test_texts_that_show_nothing_count_as_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_(Shop(), written(tmp_path, "a,A,,\u200b,\u3000", "b,B,,\xa0\ufeff,-"))
    assert "2 without SEO title, 1 without SEO description" in capsys.readouterr().out
