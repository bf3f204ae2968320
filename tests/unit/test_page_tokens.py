import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit import page_tokens
from servicekit.errors import Reason, ServiceError

QUERY = ["ListRuns", "p", "", "", "", ""]


@given(st.lists(st.text(max_size=30), max_size=4), st.lists(st.text(max_size=10), max_size=4))
def test_a_position_comes_back(position: list[str], query: list[str]) -> None:
    token = page_tokens.encode(position, query=query)
    assert page_tokens.decode(token, query=query, parts=len(position)) == position


def refused(token: str, query: list[str] = QUERY) -> None:
    with pytest.raises(ServiceError) as failure:
        page_tokens.decode(token, query=query)
    assert failure.value.reason is Reason.PAGE_TOKEN_INVALID
    assert [violation.field for violation in failure.value.violations] == ["page_token"]


@pytest.mark.parametrize("position", [[], ["a", "b"], [7], [None], {"a": 1}, "a", [["a"]]], ids=str)
def test_a_made_up_position_is_refused(position: list[str]) -> None:
    refused(page_tokens.encode(position, query=QUERY))


def test_a_token_altered_at_any_place_is_refused() -> None:
    token = page_tokens.encode(["2026-05-04T12:30:15.123456Z", "0198"], query=QUERY)
    for place in range(len(token)):
        for letter in ("A", "z", "-", "=", " ", "\0", "é"):
            if token[place] != letter:
                refused(token[:place] + letter + token[place + 1 :])
        refused(token[:place] + token[place + 1 :])
        refused(token[:place])
    refused(token + "A")
    refused(token + "=")


@pytest.mark.parametrize("place", range(len(QUERY)))
def test_a_token_used_with_another_query_is_refused(place: int) -> None:
    token = page_tokens.encode(["a"], query=QUERY)
    refused(token, [*QUERY[:place], "other", *QUERY[place + 1 :]])


def test_a_value_that_moves_to_another_filter_is_another_query() -> None:
    refused(page_tokens.encode(["a"], query=["L", "x", ""]), ["L", "", "x"])
    refused(page_tokens.encode(["a"], query=["L", "xy", "z"]), ["L", "x", "yz"])
