"""What of a provider's message may be quoted, and what of it repeats the request."""

import json

import pytest

from executor_service.ai.echoes import Echoes
from executor_service.ai.prompts import PROMPT
from executor_service.ai.provider import ProductBrief

PRODUCTS = [
    ProductBrief("p1", "Velvet Übergrößen Mug QX7731", "<p>Hand-thrown &amp; glazed, of a maximum length.</p>"),
    ProductBrief("p2", "山小屋マグカップ", "帆布のかばん"),
    ProductBrief("p3", "हाथ का बना प्याला", "ผ้าไหมไทยแท้จากเชียงใหม่"),
]
SYSTEM, USER = PROMPT.system_message("seo_title"), PROMPT.user_message("seo_title", PRODUCTS)


@pytest.fixture
def echoes() -> Echoes:
    return Echoes(prompt=SYSTEM, products=USER, known="gpt-velvet-4o")


@pytest.mark.parametrize(
    "message",
    [
        "The model `gpt-velvet-4o` does not exist or you do not have access to it.",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        "Incorrect API key provided: ***. You can find your API key at https://provider.example/keys.",
        "Rate limit reached for requests. Limit: 3 / min. Please try again in 20s.",
        "You exceeded your current quota, please check your plan and billing details.",
        "Invalid schema for response_format 'suggestions': In context=('properties', 'items'), schema missing.",
        "'messages[1].content' : value must be a string",
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate",
        "All connection attempts failed",
        "模型不存在",
        "",
    ],
)
def test_what_helps_is_quoted_as_it_is(echoes: Echoes, message: str) -> None:
    assert echoes.strike(message) == message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Cannot write about QX7731", "Cannot write about …"),
        ("Cannot write about qx7731!", "Cannot write about …!"),
        ("invalid input: 'Velvet Übergrößen Mug QX7731'", "invalid input: '…'"),
        ("VELVET mug is not allowed, nor hand-thrown", "… is not allowed, nor …"),
        ("bad: Velvet U\u0308bergro\u0308ßen", "bad: …"),
        (r"bad: \u00dcbergr\u00f6\u00dfen, \\u00dcbergr\\u00f6\\u00dfen", "bad: …"),
        (r"bad header: bytearray(b'Velvet \xc3\x9cbergr\xc3\xb6\xc3\x9fen')", "bad header: bytearray(b'…')"),
        ("input cut: Velvet Übergrö", "input cut: …"),
        ("input cut: …größen Mug", "input cut: …"),
        ("blocked 山小屋マグカップ", "blocked …"),
        ("山小屋マ is blocked", "… is blocked"),
        ("帆布 and かばん", "… and …"),
        ("प्याला and ผ้าไหมไทย", "… and …"),
        ("the text is of a maximum length", "the text is …"),
        ("You write the metadata that search engines show for the products", "…"),
    ],
)
def test_what_repeats_product_texts_or_the_prompt_is_struck_out(echoes: Echoes, message: str, expected: str) -> None:
    assert echoes.strike(message).replace("……", "…") == expected


@pytest.mark.parametrize("wrap", [str, repr, json.dumps, lambda text: json.dumps(json.dumps(text)), str.upper, ascii])
@pytest.mark.parametrize("sent", [SYSTEM, USER, SYSTEM + USER], ids=["system", "user", "both"])
def test_nothing_of_a_whole_echo_is_left(echoes: Echoes, sent: str, wrap: object) -> None:
    left = echoes.strike(f"Bad Request: {wrap(sent)}")  # type: ignore[operator]
    assert left.startswith("Bad Request: ")
    for marker in ("velvet", "berg", "mug", "qx7731", "thrown", "glazed", "小屋", "帆布", "metadata", "instruction"):
        assert marker not in left.casefold()
