"""RUL-001: the rules engine, case by case and by properties."""

import hashlib
import json

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from playbooks.runs.v1.run_pb2 import PlaybookRules

from executor_service.playbooks.rules import FindReplace, RuledText, Rules, apply, rules_hash
from servicekit.blanks import is_blank

FIELD_LIMIT = 5_000  # characters
CASELESS = ".*+?()[]{}^$|\\12 g<>山"  # what regular expressions and their templates treat specially
texts = st.text(max_size=40)
some_text = st.text(min_size=1, max_size=40)
ascii_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)
rule_sets = st.builds(
    Rules,
    enabled=st.booleans(),
    find_replace=st.none() | st.builds(FindReplace, texts, texts, st.booleans()),
    prefix=texts,
    suffix=texts,
    max_length=st.integers(-5, 60),
    forbidden_phrases=st.lists(texts, max_size=3).map(tuple),
    mode=st.sampled_from(["", "enforce", "warn"]),
)


def ruled(text: str, *, field_limit: int = FIELD_LIMIT, **rules: object) -> RuledText:
    return apply(Rules(enabled=True, **rules), text, field_limit=field_limit)  # type: ignore[arg-type]


def replaced(text: str, find: str, replace: str, *, case_sensitive: bool = False) -> str:
    return ruled(text, find_replace=FindReplace(find, replace, case_sensitive)).text


class TestRUL_001_Transforms:
    def test_they_apply_in_the_contracts_order(self) -> None:
        rules = Rules(
            enabled=True,
            find_replace=FindReplace("mug", "cup"),
            prefix="mug: ",  # comes after find and replace, so it is not replaced
            suffix=" | mug shop",
            max_length=18,  # counts prefix and suffix, and may cut into them
            forbidden_phrases=("MUG SHOP", "| mug"),  # looked for after the cut
        )
        expected = RuledText("mug: Enamel cup | ", ("trimmed_to_max_length",))
        assert apply(rules, "Enamel mug", field_limit=FIELD_LIMIT) == expected

    def test_a_phrase_that_the_prefix_brings_in_is_detected(self) -> None:
        assert ruled("Enamel cup", prefix="Cheap ", forbidden_phrases=("cheap enamel",)).warnings == (
            "forbidden_phrase_detected",
        )

    @pytest.mark.parametrize(
        ("text", "find", "replace", "expected"),
        [
            ("a.b axb", ".", "!", "a!b axb"),
            ("(x)* [y] {2} ^$ a|b", "(x)* [y] {2} ^$ a|b", "ok", "ok"),
            ("C:\\temp", "\\t", "/t", "C:/temp"),
            ("price", "price", r"\1 \g<0> \n", r"\1 \g<0> \n"),
            ("aaa", "aa", "b", "ba"),
            ("Red mug, red Mug", "MUG", "cup", "Red cup, red cup"),
            ("GRÖẞE größe", "Größe", "size", "size size"),
            ("İzmir mug, MUG", "mug", "cup", "İzmir cup, cup"),  # lower-casing İ would shift what follows
            ("Tent (3-person)", " (3-person)", "", "Tent"),
            ("Tent", "lamp", "x", "Tent"),
        ],
    )
    def test_find_and_replace_is_literal_and_ignores_case(
        self, text: str, find: str, replace: str, expected: str
    ) -> None:
        assert replaced(text, find, replace) == expected

    def test_find_and_replace_minds_case_on_demand(self) -> None:
        assert replaced("Mug mug MUG", "mug", "cup", case_sensitive=True) == "Mug cup MUG"

    def test_an_empty_find_replaces_nothing(self) -> None:
        assert replaced("Mug", "", "x") == "Mug"
        assert replaced("Mug", "", "x", case_sensitive=True) == "Mug"

    def test_prefix_and_suffix_stand_as_they_are(self) -> None:
        assert ruled("Mug", prefix="Hüttenzeit:", suffix=" \\1").text == "Hüttenzeit:Mug \\1"

    @pytest.mark.parametrize(
        ("max_length", "expected", "warnings"),
        [
            (0, "山小屋マグ🏔️", ()),
            (-1, "山小屋マグ🏔️", ()),
            (7, "山小屋マグ🏔️", ()),
            (6, "山小屋マグ", ("trimmed_to_max_length",)),  # the mountain has two
            (3, "山小屋", ("trimmed_to_max_length",)),
            (1, "山", ("trimmed_to_max_length",)),
        ],
    )
    def test_cutting_counts_characters_and_warns(
        self, max_length: int, expected: str, warnings: tuple[str, ...]
    ) -> None:
        assert ruled("山小屋マグ🏔️", max_length=max_length) == RuledText(expected, warnings)

    @pytest.mark.parametrize("phrase", ["best price", "BEST PRICE", "st pr"])
    def test_forbidden_phrases_are_reported_once_and_stay(self, phrase: str) -> None:
        assert ruled("Best Price, best price!", forbidden_phrases=("nowhere", phrase, "best")) == RuledText(
            "Best Price, best price!", ("forbidden_phrase_detected",)
        )

    def test_forbidden_phrases_ignore_case_beyond_ascii(self) -> None:
        for text, phrase in (("MADE FOR THE STRASSE", "straße"), ("Made for the Straße", "STRASSE")):
            assert ruled(text, forbidden_phrases=(phrase,)).warnings == ("forbidden_phrase_detected",)

    @pytest.mark.parametrize("left", ["", " ", "\u200b"])
    def test_what_find_and_replace_makes_blank_gets_no_prefix(self, left: str) -> None:
        assert ruled("mug", find_replace=FindReplace("mug", left), prefix="Buy ") == RuledText(left)

    def test_a_negative_length_is_no_limit(self) -> None:
        assert Rules.from_message(PlaybookRules(enabled=True, max_length=-5)) == Rules(enabled=True)

    def test_an_empty_forbidden_phrase_is_no_phrase(self) -> None:
        assert ruled("Mug", forbidden_phrases=("",)).warnings == ()

    def test_both_warnings_stand_in_the_order_of_the_checks(self) -> None:
        assert ruled("cheap mug", max_length=5, forbidden_phrases=("cheap",)).warnings == (
            "trimmed_to_max_length",
            "forbidden_phrase_detected",
        )

    @pytest.mark.parametrize("blank", ["", " ", "\t\r\n\v\f", "\u00a0 "])
    def test_a_blank_suggestion_stays_blank(self, blank: str) -> None:
        assert ruled(blank, prefix="Shop: ", suffix="!", max_length=2, forbidden_phrases=("shop",)) == RuledText(blank)

    @pytest.mark.parametrize("max_length", [0, 9, 20])
    def test_what_the_field_does_not_take_is_cut_off(self, max_length: int) -> None:
        cut = ruled("Enamel mug", suffix=" | Shop", max_length=max_length, field_limit=12)
        assert cut == RuledText("Enamel mug |"[: max_length or 12], ("trimmed_to_max_length",))

    def test_a_suggestion_that_is_replaced_by_nothing_stays_blank(self) -> None:
        assert ruled("n/a", find_replace=FindReplace("N/A"), prefix="Shop: ") == RuledText("")


class TestRUL_001_Properties:
    @given(rule_sets, texts)
    def test_disabled_rules_change_nothing(self, rules: Rules, text: str) -> None:
        disabled = Rules.from_json({**rules.normalized(), "enabled": False})
        assert apply(disabled, text, field_limit=FIELD_LIMIT) == RuledText(text)

    @given(rule_sets, texts)
    def test_max_length_is_never_exceeded_and_a_cut_is_always_reported(self, rules: Rules, text: str) -> None:
        uncut = apply(Rules.from_json({**rules.normalized(), "maxLength": 0}), text, field_limit=FIELD_LIMIT)
        cut = apply(rules, text, field_limit=FIELD_LIMIT)
        assert uncut.text.startswith(cut.text)
        assert ("trimmed_to_max_length" in cut.warnings) == (cut.text != uncut.text)
        if rules.enabled and rules.max_length > 0 and not is_blank(uncut.text):
            assert len(cut.text) <= rules.max_length

    @given(st.text(CASELESS), st.text(CASELESS, min_size=1, max_size=3), st.text(CASELESS, max_size=5), st.booleans())
    def test_find_and_replace_are_literal_whatever_they_hold(
        self, text: str, find: str, replace: str, case_sensitive: bool
    ) -> None:
        text = f"#{text}#"  # neither blank nor a formula
        assert replaced(text, find, replace, case_sensitive=case_sensitive) == text.replace(find, replace)

    @given(st.text("aAbB.\\*", max_size=30), st.text("aAbB.\\*", min_size=1, max_size=3), st.text("xyz", max_size=3))
    def test_ignoring_case_agrees_with_a_plain_scan(self, text: str, find: str, replace: str) -> None:
        expected, at = "|", 0
        while at < len(text):
            if text[at : at + len(find)].lower() == find.lower():
                expected, at = expected + replace, at + len(find)
            else:
                expected, at = expected + text[at], at + 1
        assert replaced("|" + text, find, replace) == expected

    @given(some_text.filter(lambda text: not is_blank(text)), st.lists(some_text, max_size=4).map(tuple))
    def test_forbidden_phrases_change_no_text(self, text: str, phrases: tuple[str, ...]) -> None:
        assert ruled(text, forbidden_phrases=phrases).text == text

    # Of other characters some are alike that differ: ¼ has a 1 in it.
    @given(ascii_text.filter(lambda text: not is_blank(text)), st.lists(ascii_text, max_size=4).map(tuple))
    def test_forbidden_phrases_are_found_in_any_case(self, text: str, phrases: tuple[str, ...]) -> None:
        found = any(phrase.casefold() in text.casefold() for phrase in phrases)
        assert bool(ruled(text, forbidden_phrases=phrases).warnings) == found


class TestRUL_001_Normalized:
    def test_enabled_and_mode_always_stand(self) -> None:
        assert Rules.from_message(PlaybookRules()) == Rules()
        assert Rules().normalized() == {"enabled": False, "mode": "enforce"}

    def test_unset_values_are_left_out(self) -> None:
        rules = Rules(
            enabled=True, find_replace=FindReplace("", "x", True), max_length=-3, forbidden_phrases=("",), mode=""
        )
        assert rules.normalized() == {"enabled": True, "mode": "enforce"}

    def test_find_replace_always_has_all_its_keys(self) -> None:
        message = PlaybookRules(enabled=True, find_replace=PlaybookRules.FindReplace(find="a"))
        assert Rules.from_message(message).normalized()["findReplace"] == {
            "find": "a",
            "replace": "",
            "caseSensitive": False,
        }

    def test_set_values_stand_under_their_camel_case_names(self) -> None:
        message = PlaybookRules(
            enabled=True,
            find_replace=PlaybookRules.FindReplace(find=" ", replace="_", case_sensitive=True),
            prefix=" ",
            suffix=" – Hüttenzeit",
            max_length=60,
            forbidden_phrases=["günstig", "günstig", "b"],
            mode="warn",
        )
        assert Rules.from_message(message).normalized() == {
            "enabled": True,
            "findReplace": {"find": " ", "replace": "_", "caseSensitive": True},
            "prefix": " ",
            "suffix": " – Hüttenzeit",
            "maxLength": 60,
            "forbiddenPhrases": ["günstig", "günstig", "b"],
            "mode": "warn",
        }

    @given(rule_sets)
    def test_messages_and_json_keep_the_meaning(self, rules: Rules) -> None:
        assert Rules.from_message(rules.to_message()).normalized() == rules.normalized()
        stored = json.loads(json.dumps(rules.normalized()))
        assert Rules.from_json(stored).normalized() == rules.normalized()

    def test_json_of_another_kind_is_refused(self) -> None:
        with pytest.raises(json_format.ParseError):
            Rules.from_json({"enabled": True, "maxLenght": 60})


def digest(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class TestRUL_001_Hash:
    def test_known_answers(self) -> None:
        assert rules_hash(Rules()) == digest('{"enabled":false,"mode":"enforce"}')
        everything = Rules(
            enabled=True,
            find_replace=FindReplace("Größe", 'a "b" \\', True),
            prefix="山 ",
            suffix="/🏔",
            max_length=60,
            forbidden_phrases=("b", "a"),
            mode="warn",
        )
        assert rules_hash(everything) == digest(
            r'{"enabled":true,"findReplace":{"caseSensitive":true,"find":"Größe","replace":"a \"b\" \\"},'
            r'"forbiddenPhrases":["b","a"],"maxLength":60,"mode":"warn","prefix":"山 ","suffix":"/🏔"}'
        )

    def test_it_never_changes_between_releases(self) -> None:
        assert rules_hash(Rules()) == "39c4bcfbb8c41ddd"
        assert rules_hash(Rules(enabled=True, max_length=60)) == "ff8bd0d07876d054"

    @given(rule_sets, st.randoms())
    def test_key_order_does_not_count(self, rules: Rules, random: object) -> None:
        pairs = list(rules.normalized().items())
        random.shuffle(pairs)  # type: ignore[attr-defined]
        assert rules_hash(Rules.from_json(dict(pairs))) == rules_hash(rules)

    @pytest.mark.parametrize(
        "spelled_out",
        [
            {"mode": "enforce"},
            {"mode": ""},
            {"prefix": "", "suffix": ""},
            {"maxLength": 0},
            {"maxLength": -1},
            {"forbiddenPhrases": []},
            {"findReplace": {}},
            {"findReplace": {"find": "", "replace": "x", "caseSensitive": True}},
        ],
    )
    def test_defaults_do_not_count(self, spelled_out: dict[str, object]) -> None:
        assert rules_hash(Rules.from_json({"enabled": True, **spelled_out})) == rules_hash(Rules(enabled=True))

    def test_every_value_counts(self) -> None:
        changed = [
            {"enabled": True},
            {"mode": "warn"},
            {"prefix": "a"},
            {"suffix": "a"},
            {"maxLength": 1},
            {"forbiddenPhrases": ["a", "b"]},
            {"forbiddenPhrases": ["b", "a"]},
            {"findReplace": {"find": "a"}},
            {"findReplace": {"find": "a", "replace": "b"}},
            {"findReplace": {"find": "a", "caseSensitive": True}},
        ]
        assert len({rules_hash(Rules.from_json(document)) for document in [{}, *changed]}) == len(changed) + 1
