"""Texts as people compare and cut them, in the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.playbooks.likeness import cut, graphemes, likeness, replace_alike
from executor_service.playbooks.rules import FindReplace, RuledText, Rules, apply
from tests.support.processor import least_seconds

FAMILY = "👨‍👩‍👧"
FIELD_LIMIT = 1_000


def ruled(text: str, **rules: object) -> RuledText:
    return apply(Rules(enabled=True, **rules), text, field_limit=FIELD_LIMIT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parts",
    [
        ["a", "b", "c"],
        ["C", "a", "f", "e\u0301"],
        [FAMILY, "x"],
        ["👍🏽", "👍"],
        ["❤️‍🔥", "!"],
        ["🇩🇪", "🇫🇷", "🇯"],
        ["\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "."],
        ["1️⃣", "2"],
        ["नि", "क्षे"],
        ["กำ", "ห"],
        ["각", "\u1100\u1161\u11a8", "가"],
        ["\r\n", "\n"],
        ["葛\U000e0100", "飾"],
    ],
    ids="".join,
)
def test_a_grapheme_is_one_character_to_a_person(parts: list[str]) -> None:
    text = "".join(parts)
    assert [text[start:end] for start, end in graphemes(text)] == parts


@pytest.mark.parametrize(
    ("text", "room", "expected"),
    [
        ("Cafe\u0301 mug", 4, "Caf"),
        ("Cafe\u0301 mug", 5, "Cafe\u0301"),
        (f"Mug {FAMILY} set", 6, "Mug "),
        (f"Mug {FAMILY} set", 9, f"Mug {FAMILY}"),
        ("Mug 👍🏽", 5, "Mug "),
        ("Mug 🇩🇪", 5, "Mug "),
        ("🇩🇪🇫🇷", 3, "🇩🇪"),
        ("한국\u1100\u1161\u11a8", 4, "한국"),
        (FAMILY, 3, ""),
        ("ab", 2, "ab"),
        ("ab", 9, "ab"),
    ],
)
def test_a_cut_steps_back_to_where_a_grapheme_begins(text: str, room: int, expected: str) -> None:
    assert cut(text, room) == expected
    warnings = () if expected == text else ("trimmed_to_max_length",)
    assert ruled(text, max_length=room) == RuledText(expected, warnings)


@given(st.text(max_size=40), st.integers(0, 50))
def test_a_cut_is_a_beginning_and_never_longer(text: str, room: int) -> None:
    short = cut(text, room)
    assert text.startswith(short)
    assert len(short) <= room
    assert "".join(text[start:end] for start, end in graphemes(text)) == text


ALIKE = [
    ("Kid's mug", "kid’s"),
    ("The “best” mug", '"BEST"'),
    ("free\u200bbie mug", "freebie"),
    ("FREE\u00adBIE", "freebie"),
    ("free\u2060bie", "free\ufeffbie"),
    ("ﬁne mug", "FINE"),
    ("ＢＥＳＴ price", "best"),
    ("Straße", "STRASSE"),
    ("Cafe\u0301", "CAFÉ"),
    ("best\u00a0price", "best price"),
    ("ΟΔΟΣ", "οδος"),
    ("①st", "1ST"),
    ("ﾏｸﾞ", "マグ"),
    ("s❤️le", "s❤le"),
]


@pytest.mark.parametrize(("text", "phrase"), ALIKE)
def test_forbidden_phrases_and_find_compare_alike(text: str, phrase: str) -> None:
    for one, other in ((text, phrase), (phrase, text)):
        surrounded = f"A {one} now"
        expected = FindReplace(other, "X").apply_to(surrounded)
        if likeness(other) in likeness(one):
            assert ruled(surrounded, forbidden_phrases=(other,)).warnings == ("forbidden_phrase_detected",)
            assert "X" in expected
            assert expected.startswith("A ")
            assert expected.endswith(" now")
    assert ruled(text, forbidden_phrases=(phrase,)).warnings == ("forbidden_phrase_detected",)


@pytest.mark.parametrize(
    ("text", "find", "expected"),
    [
        ("Straße", "s", "Xtraße"),  # half of a letter is none
        ("Cafe\u0301", "e", "Cafe\u0301"),
        ("ﬁne", "f", "ﬁne"),
        ("Mug\u200b mug", "mug", "X\u200b X"),
        ("é", "\u200b", "é"),
        ("ééé", "éé", "Xé"),
        ("Größe größe", "GRÖSSE", "X X"),
    ],
)
def test_what_is_replaced_is_whole_characters(text: str, find: str, expected: str) -> None:
    assert replace_alike(text, find, "X") == expected


def test_find_that_minds_case_minds_everything() -> None:
    assert ruled("Kid’s kid's", find_replace=FindReplace("kid's", "X", case_sensitive=True)).text == "Kid’s X"


@pytest.mark.parametrize("part", ["é", "e\u0301", "👍🏽", "\u200b", "🇩", "ß", "\u0301"])
def test_no_text_takes_long(part: str) -> None:
    text = part * (20_000 // len(part))

    def read() -> None:
        likeness(text)
        cut(text, 10_000)
        replace_alike(text, part * 50 + "x", "X")
        replace_alike(text, "s", "X")

    assert least_seconds(read) < 2


@pytest.mark.parametrize(
    ("text", "find", "replace", "expected"),
    [
        ("Mug =1+1", "Mug", "", "1+1"),
        ("Mug - blue", "mug ", "", "blue"),
        ("Mug", "Mug", "-10 % mug", "-10 % mug"),  # the shop's own words
        ("Mug", "nowhere", "", "Mug"),
    ],
)
def test_what_a_rule_uncovers_is_no_formula(text: str, find: str, replace: str, expected: str) -> None:
    assert ruled(text, find_replace=FindReplace(find, replace)).text == expected
