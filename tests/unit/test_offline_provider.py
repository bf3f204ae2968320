import logging
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from executor_service.ai.factory import build_provider
from executor_service.ai.offline import OfflineProvider, write_description, write_title
from executor_service.ai.provider import ProductBrief, SuggestionRequest

SWEATER = ProductBrief(
    "p1",
    "Merino Crew Sweater",
    "<p>Soft, breathable merino wool. Machine washable.</p><ul><li>100% merino</li><li>Made in Portugal</li></ul>",
)

HALF_FULL = "First sentence that fills a good half of the room there is for a text below a title."


def brief(title: str, description: str = "") -> ProductBrief:
    return ProductBrief("p1", title, description)


@pytest.mark.parametrize(
    ("title", "description", "expected"),
    [
        (SWEATER.title, SWEATER.description, "Merino Crew Sweater – Breathable merino wool"),
        (
            "Stoneware Mug",
            "<p>This mug holds 350&nbsp;ml and keeps coffee warm.</p>",
            "Stoneware Mug – Keeps coffee warm",
        ),
        ("Linen Apron", "A linen apron with cross-back straps.", "Linen Apron – Cross-back straps"),
        ("Becher", "Handgetöpfert aus Steinzeug, spülmaschinenfest.", "Becher – Handgetöpfert aus Steinzeug"),
        ("Canvas Tote", "You and everyone you know will love it.", "Canvas Tote"),  # nothing worth saying
        ("Mug", "", "Mug"),
        ("  Mug\n\tblue ", "", "Mug blue"),
        ("", SWEATER.description, ""),
        (" \n", SWEATER.description, ""),
    ],
)
def test_titles_are_the_products_name_and_a_telling_clause(title: str, description: str, expected: str) -> None:
    assert write_title(brief(title, description)) == expected


@pytest.mark.parametrize(
    ("title", "description", "expected"),
    [
        (
            SWEATER.title,
            SWEATER.description,
            "Soft, breathable merino wool. Machine washable. 100% merino. Made in Portugal.",
        ),
        ("Mug", "<p>Holds 350&nbsp;ml</p>", "Mug: Holds 350 ml."),
        ("Mug", "<style>p{color:red}</style><script>'<p>'</script>", "Mug: pictures, details and price at a glance."),
        ("Mug", "Salt &amp; pepper <b>grey</b>, 3 < 5", "Mug: Salt & pepper grey, 3 < 5."),
        ("Mug", HALF_FULL + " " + "word " * 40, HALF_FULL),
        ("Mug", "word " * 40, "word " * 30 + "word…"),
        ("", "<p>Holds 350 ml</p>", ""),
    ],
)
def test_descriptions_are_the_products_own_sentences(title: str, description: str, expected: str) -> None:
    assert write_description(brief(title, description)) == expected


markup = st.text(alphabet=string.ascii_letters + string.digits + " <>/&#;.,!-–\"'=\n\x00äé漢\ud800", max_size=400)


@given(title=markup, description=markup)
def test_texts_are_short_printable_and_always_the_same(title: str, description: str) -> None:
    product = brief(title, description)
    for write, limit in ((write_title, 60), (write_description, 155)):
        text = write(product)
        assert len(text) <= limit
        assert text == " ".join(text.split())
        assert "\x00" not in text
        text.encode()
        assert text == write(product)
        assert bool(text) == bool(write_title(brief(title)))


async def test_every_product_gets_an_answer() -> None:
    provider = OfflineProvider()
    products = (SWEATER, ProductBrief("p2", "", "no title"))
    titles = (await provider.suggest(SuggestionRequest("seo_title", products))).texts
    assert titles == {"p1": "Merino Crew Sweater – Breathable merino wool", "p2": ""}
    descriptions = (await provider.suggest(SuggestionRequest("seo_description", products))).texts
    assert descriptions.keys() == {"p1", "p2"}
    assert (await provider.suggest(SuggestionRequest("seo_title", ()))).texts == {}
    await provider.close()


def test_without_a_key_the_offline_writer_is_chosen_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for key in (None, SecretStr(""), SecretStr("  ")):
        assert build_provider(api_key=key).model == "offline-template"
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "Set OPENAI_API_KEY" in caplog.text
    assert "AI_PROVIDER=offline" in caplog.text


def test_chosen_knowingly_it_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    assert build_provider(provider="offline", api_key=SecretStr("sk-unused")).model == "offline-template"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "OPENAI_API_KEY"),
        ({"api_key": SecretStr("sk-with a blank")}, "OPENAI_API_KEY"),
        ({"api_key": SecretStr("sk-kéy")}, "OPENAI_API_KEY"),
        *(
            ({"api_key": SecretStr("sk-key"), "base_url": url}, "OPENAI_BASE_URL")
            for url in (
                "localhost:8080/v1",
                "http://",
                "http://h:abc/v1",
                "http://h:99999",
                "http://[::1",
                "ftp://h/v1",
            )
        ),
    ],
)
def test_settings_that_cannot_work_stop_the_start(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        build_provider(provider="openai", **settings)  # type: ignore[arg-type]
    assert "sk-" not in str(caught.value)
