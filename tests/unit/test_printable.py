"""PRT-001: control, line-breaking and invisible characters are escaped; all others stay."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.telemetry.printable import CONTINUED, has_control_characters, printable, printable_json, printable_lines

# Every character: hypothesis rarely draws those that matter, so they are drawn on purpose too.
SPECIAL = (
    "\0\t\n\r\x1b\x07\x7f\x85\x9b\x9d\xad\u061c\u180e\u200b\u200e\u2028\u2029\u202e\u2066\ufeff\ud800\udfff\U000e0041"
)
TEXTS = st.text(st.one_of(st.characters(exclude_categories=()), st.sampled_from(SPECIAL)), max_size=80)
WORDS_AND_EMOJI = {"\u200c", "\u200d"}
# Signs that belong to the number or the word after them, and are seen.
SEEN = {"ARABIC", "SYRIAC", "KAITHI", "EGYPTIAN"}


def characters(*categories: str) -> list[str]:
    return [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in categories]


def test_every_control_character_line_break_and_half_is_escaped() -> None:
    for character in characters("Cc", "Zl", "Zp", "Cs"):
        assert printable(f"a{character}b").isprintable(), ascii(character)
    for character in "\x85\u2028\u2029\r\n\v\f\x1c\x1d\x1e":  # where str.splitlines() splits
        assert len(printable(f"a{character}b").splitlines()) == 1


def test_every_format_character_is_escaped_except_those_of_words_and_emoji() -> None:
    kept = {c for c in characters("Cf") if printable(c) == c} - WORDS_AND_EMOJI
    assert {unicodedata.name(c).split()[0] for c in kept} <= SEEN
    assert printable("کتاب\u200cها 👨\u200d👩\u200d👧") == "کتاب\u200cها 👨\u200d👩\u200d👧"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cHduZWQ=\x07", r"\x1b]52;c;cHduZWQ=\x07"),
        ("\x9d0;title\x9c", r"\x9d0;title\x9c"),
        ("a\tb\r\nc", r"a\tb\r\nc"),
        ("a\u2028b\u202ec", r"a\u2028b\u202ec"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("Désolé, 東京\u00a0☕ [red]\\n", "Désolé, 東京\u00a0☕ [red]\\n"),
    ],
)
def test_it_looks_like_this(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(TEXTS)
def test_nothing_that_is_escaped_survives_and_a_second_time_changes_nothing(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in shown)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    shown.encode()


@given(TEXTS)
def test_what_is_printable_stays(text: str) -> None:
    clean = "".join(character for character in text if character.isprintable())
    assert printable(clean) is clean
    assert all(not character.isprintable() for character in text if printable(character) != character)


@given(TEXTS)
def test_each_further_line_of_a_text_is_marked(text: str) -> None:
    first, *others = printable_lines(text).splitlines() or [""]
    assert first == printable(text.partition("\n")[0])
    assert all(line.startswith(CONTINUED) for line in others)
    assert len(others) == text.count("\n")


@given(st.recursive(TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_json_means_the_same_and_holds_nothing_to_obey(document: object) -> None:
    shown = printable_json(json.dumps(document, ensure_ascii=False))
    assert json.loads(shown) == document
    assert printable(shown) == shown
    shown.encode()


@given(TEXTS)
def test_control_characters_are_found(text: str) -> None:
    assert has_control_characters(text) is any(unicodedata.category(c) in {"Cc", "Zl", "Zp"} for c in text)
