"""The scope id, and what playbooks count as an affected product."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor_service.playbooks.playbook import (
    MISSING_SEO_DESCRIPTION,
    MISSING_SEO_TITLE,
    UnknownPlaybookError,
    playbook,
)
from executor_service.playbooks.scope import scope_id
from servicekit.blanks import BLANKS, is_blank


def digest(named: str) -> str:
    return hashlib.sha256(named.encode()).hexdigest()[:16]


class TestScopeId:
    def test_known_answers(self) -> None:
        assert scope_id("shop", "missing_seo_title", []) == digest("shop:missing_seo_title:")
        assert scope_id("shop", "missing_seo_title", ["p2", "p10", "p1"]) == digest("shop:missing_seo_title:p1,p10,p2")

    def test_it_never_changes_between_releases(self) -> None:
        assert scope_id("shop", "missing_seo_title", ["p1", "p2"]) == "7a852ff9b4fc38d6"

    def test_ids_sort_by_code_point(self) -> None:
        # UTF-16 order, JavaScript's, would put the emoji (a surrogate pair) before the ligature.
        assert scope_id("p", "b", ["🏔", "ﬁ", "ä", "Z", "a"]) == digest("p:b:Z,a,ä,ﬁ,🏔")

    @given(
        st.lists(st.text(), unique=True, max_size=6).flatmap(lambda ids: st.tuples(st.just(ids), st.permutations(ids)))
    )
    def test_the_order_of_ids_does_not_count(self, both: tuple[list[str], list[str]]) -> None:
        given_order, shuffled = both
        assert scope_id("shop", "missing_seo_title", given_order) == scope_id("shop", "missing_seo_title", shuffled)

    def test_project_playbook_and_each_product_count(self) -> None:
        scopes = {
            scope_id("shop", "missing_seo_title", ["p1", "p2"]),
            scope_id("shop2", "missing_seo_title", ["p1", "p2"]),
            scope_id("shop", "missing_seo_description", ["p1", "p2"]),
            scope_id("shop", "missing_seo_title", ["p1"]),
            scope_id("shop", "missing_seo_title", ["p1", "p3"]),
        }
        assert len(scopes) == 5


class TestPlaybook:
    def test_each_is_found_by_its_id(self) -> None:
        assert playbook("missing_seo_title") is MISSING_SEO_TITLE
        assert playbook("missing_seo_title").field == "seo_title"
        assert playbook("missing_seo_description") is MISSING_SEO_DESCRIPTION
        assert playbook("missing_seo_description").field == "seo_description"

    @pytest.mark.parametrize("unknown", ["", "seo_title", "MISSING_SEO_TITLE"])
    def test_an_unknown_id_is_reported_with_the_known_ones(self, unknown: str) -> None:
        with pytest.raises(UnknownPlaybookError, match="missing_seo_title or missing_seo_description"):
            playbook(unknown)


class TestIsBlank:
    @pytest.mark.parametrize("text", [None, "", BLANKS, *BLANKS])
    def test_nothing_and_blanks_are_blank(self, text: str | None) -> None:
        assert is_blank(text)

    @pytest.mark.parametrize(
        "text",
        [
            "\u3000",
            "\u2003\u2028",
            "\u200b\u200d\ufeff",
            "\u2800",
            "\u115f\u1160\u3164\uffa0",
            "\u00ad\u2060",
            "\u202e\u2066\u200f",
        ],
    )
    def test_what_shows_nothing_is_blank(self, text: str) -> None:
        assert is_blank(text)

    # The last one is whitespace to Python's str.strip(); it is not to the store's SQL, so not here either.
    @pytest.mark.parametrize("text", ["a", " a ", "0", "\u200ba", "\u0301", "\x1f"])
    def test_all_else_is_not(self, text: str) -> None:
        assert not is_blank(text)
