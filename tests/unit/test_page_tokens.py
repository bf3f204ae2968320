import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import Reason, ServiceError
from servicekit.rpc import page_tokens

QUERY = ["ListRuns", "p", "", "", "", ""]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


@given(st.lists(TEXT, max_size=4), st.lists(st.text(max_size=10), max_size=4))
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


def by_hand(body: bytes, query: list[str] = QUERY) -> str:
    """A token with any bytes in it and the right digest: it has no key, so anybody can make one."""
    digest = hashlib.sha256(json.dumps(query).encode() + b"\0" + body).digest()[:8]
    return base64.urlsafe_b64encode(digest + body).rstrip(b"=").decode()


def test_a_token_by_hand_is_good_when_it_says_what_ours_would() -> None:
    assert page_tokens.decode(by_hand(b'["a"]'), query=QUERY) == ["a"]


@pytest.mark.parametrize(
    "body",
    [
        b'["\\u0000"]',
        b'["a\\u0000b"]',
        b'["a\0b"]',
        b'["\\ud800"]',
        b"[" * 1_500,
        b'{"a":' * 700,
        b"[" * 500 + b'"a"' + b"]" * 500,
        b'[ "a"]',
        b'["\\u0061"]',
        b'["\xff"]',
        b'\xef\xbb\xbf["a"]',
        '["a"]'.encode("utf-16"),
        b"[NaN]",
        b"[1e400]",
        b"[" + b"9" * 1_500 + b"]",
        b'["a"]x',
        b"",
    ],
    ids=lambda body: ascii(body[:20]),
)
def test_a_hostile_body_with_the_right_digest_is_refused(body: bytes) -> None:
    refused(by_hand(body))


@pytest.mark.parametrize("token", ["", "A", "é", "\ud800", "\0", "=" * 8, "A" * 10_000_000, "-_-_", "+/+/"], ids=len)
def test_what_is_no_token_at_all_is_refused(token: str) -> None:
    refused(token)


@given(st.binary(max_size=60))
def test_any_body_is_answered(body: bytes) -> None:
    try:
        (part,) = page_tokens.decode(by_hand(body), query=QUERY)
    except ServiceError as error:
        reason = error.reason
    else:
        assert body == json.dumps([part], ensure_ascii=False).encode()
        return
    assert reason is Reason.PAGE_TOKEN_INVALID


@given(st.text(st.characters()))
def test_any_token_is_answered(token: str) -> None:
    refused(token)
