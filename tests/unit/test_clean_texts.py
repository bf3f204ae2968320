"""What is left of a provider's text: what a person sees, and nothing that a browser or a terminal would act on."""

import re
import unicodedata
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.ai.text import clean_line, suggestion_line, without_controls
from tests.support.processor import least_seconds

TAG = re.compile(r"<[a-z/!?]", re.IGNORECASE)  # where a browser begins a tag
pieces = st.sampled_from(
    [
        *(
            "<",
            ">",
            "&",
            ";",
            "/",
            "!",
            "--",
            "<!--",
            "-->",
            '"',
            "'",
            "=",
            " ",
            "\n",
            "3",
            "a",
            "Mug",
            "é",
            "漢",
            "م",
            "क",
        ),
        *(
            "script",
            "<script>",
            "</script>",
            "<b",
            "<b>",
            "</b>",
            "lt",
            "&lt;",
            "&gt;",
            "&amp;",
            "&#60;",
            "&#x3c",
            "amp;",
        ),
        *("\u200b", "\u200c", "\u200d", "\ufe0f", "\u202e", "\u2066", "\u061c", "\u00ad", "\ufeff", "\u2800", "\u3000"),
        *("👩", "💻", "\U000e0041", "\U000e0100", "\ufdd0", "\uffff", "\ue000", "\x00", "\x1b[31m", "\x85", "\ud800"),
    ]
)
hostile = st.lists(pieces, max_size=30).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Enamel mug, 350 ml", "Enamel mug, 350 ml"),
        ("Price 5 < 6 and 7 > 3", "Price 5 < 6 and 7 > 3"),
        ("I <3 mugs & AT&T, R&D, salt&pepper; M<L", "I <3 mugs & AT&T, R&D, salt&pepper; M< L"),
        ("<b>Enamel</b> mug<br/>for <i class='x>y'>tea</i>", "Enamel mug for tea"),
        ("<p>One</p><p>two</p>", "One two"),
        ("Mug<!-- hidden --> here<script>alert(1)</script>", "Mug here"),
        ("<?xml version='1.0'?><![CDATA[x]]><svg/onload=alert(1)>Mug", "Mug"),
        ("Salt &amp; pepper&nbsp;&ndash; caf&eacute;", "Salt & pepper – café"),
        ("&lt;script&gt;alert(1)&lt;/script&gt;Mug", "Mug"),
        ("&amp;lt;b&amp;gt;Mug&amp;lt;/b&amp;gt;", "Mug"),
        ("&#60;script&#62;x&#x3c;/script&#x3E;Mug", "Mug"),
        ("&ltb&gtMug", "Mug"),
        ("<scr\u200bipt>x</scr&#8203;ipt>Mug", "Mug"),
        ("<scr<b>ipt>x</script>Mug", ""),  # it left open what hides all that follows
        ("Mug <img src=x onerror=alert(1)", "Mug < img src=x onerror=alert(1)"),
        ("a\u202egum\u2069 \u061c\u200f\u200e\u2066mug", "agum mug"),
        ("m\u00adu\u200bg\u2060\ufeff \U000e0041\U000e007f!", "mug !"),
        ("\u200b\u2800\u3164\u115f\u3000\ufeff", ""),
        ("&#8203;&#x202E; \u00a0&ZeroWidthSpace;", ""),
        ("a\0b\x1b[31mc\x9b\u0085d\r\n\te\u2028f", "a b [31mc d e f"),
        ("x\ud800y\udfff \ufdd0\uffff\U0001ffff\ue000\U0010fffdz", "x y z"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian is misspelt without it
        ("क\u094d\u200dष", "क\u094d\u200dष"),
        ("\u200cMug\u200d م\u200c\u200c\u200c", "Mug م\u200c"),
        ("👩\u200d💻 ❤\ufe0f 🏴\U000e0067\U000e007f", "👩\u200d💻 ❤\ufe0f 🏴"),
        ("葛\U000e0100城 M\ufe0fug\U000e0100", "葛\U000e0100城 Mug"),
    ],
)
def test_what_a_person_sees_is_left(text: str, expected: str) -> None:
    assert clean_line(text) == expected


def test_markup_in_many_wrappings_is_no_markup_in_the_end() -> None:
    text = "<script>"
    for _ in range(30):
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        assert not TAG.search(clean_line(text))


@given(hostile | st.text(max_size=60))
def test_no_markup_and_nothing_unseen_is_left(text: str) -> None:
    cleaned = clean_line(text)
    assert not TAG.search(cleaned)
    assert not TAG.search(clean_line(unescape(cleaned)))
    kept = {"\u200c", "\u200d"}
    shaped = {chr(code) for code in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)}
    for character in cleaned:
        category = unicodedata.category(character)
        egyptian = 0x13430 <= ord(character) <= 0x1343F
        assert category not in {"Cc", "Cs", "Co"}
        assert category != "Cf" or character in kept | shaped or egyptian
    assert "  " not in cleaned
    assert cleaned == cleaned.strip()


@given(hostile | st.text(max_size=60))
def test_what_is_clean_stays_as_it_is(text: str) -> None:
    assert clean_line(clean_line(text)) == clean_line(text)


@given(
    st.text(st.characters(codec="ascii", exclude_characters="<&", min_codepoint=0x21, max_codepoint=0x7E), max_size=60)
)
def test_plain_words_stay_as_they_are(text: str) -> None:
    assert clean_line(text) == text


@pytest.mark.parametrize("part", ["<", "<a ", "&amp;", "&", "<!--", "<script>", "a<b", "\u200d", "<a b='", "é"])
def test_no_text_takes_long_to_clean(part: str) -> None:
    assert least_seconds(lambda: clean_line(part * 1_000)) < 0.5


def test_words_of_ones_own_keep_their_markup_and_blanks() -> None:
    assert without_controls("  <3 &amp; – <b>") == "  <3 &amp; – <b>"
    assert without_controls("a\u202eb\u200bc\x1b\nd") == "abc  d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('=HYPERLINK("http://x")', 'HYPERLINK("http://x")'),
        ("+1 mug", "1 mug"),
        ("-5 % today", "5 % today"),
        ("@SUM(A1)", "SUM(A1)"),
        (" =- +@mug", "mug"),
        ("\u200b=1", "1"),
        ("&#61;1", "1"),
        ("<b>=</b>1", "1"),
        ("\t=1", "1"),
        ("＝1", "1"),
        ("\uff0b\uff0d\uff20x", "x"),
        ("====", ""),
        ("Mug = cup - 5", "Mug = cup - 5"),
        ("Mug\u200bs \ufefffor\u200d \u2060tea", "Mugs for tea"),
    ],
)
def test_a_suggestion_begins_no_formula_and_hides_nothing(text: str, expected: str) -> None:
    assert suggestion_line(text) == expected
    assert suggestion_line(expected) == expected
