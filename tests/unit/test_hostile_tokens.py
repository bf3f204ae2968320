"""Any authorization header gets an error of our own, which gRPC can send."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.auth.principals import Principal
from servicekit.auth.tokens import Demands, TokenAuthenticator
from servicekit.errors import Reason, ServiceError
from tests.support.tokens import KEYS, SECRET, by_hand, claims, hs256, jwk, raw, with_file

SOON = int(time.time()) + 3_600
GOOD = claims(exp=SOON)
OURS = ("the token is not valid: ", "the token has expired", "the authorization metadata is not", "send the metadata")


@pytest.fixture(scope="module")
def authenticators(tmp_path_factory: pytest.TempPathFactory) -> list[TokenAuthenticator]:
    file = tmp_path_factory.mktemp("keys") / "jwks.json"
    keys = [jwk(algorithm, kid=algorithm) for algorithm in KEYS]
    return [
        TokenAuthenticator([SECRET]),
        TokenAuthenticator([SECRET, SECRET * 2], demands=Demands("audience", "issuer")),
        with_file(file, json.dumps({"keys": keys}).encode()),
    ]


def answers(authenticators: list[TokenAuthenticator], header: str) -> list[Principal | ServiceError]:
    """Return the reasons; each error must be a ServiceError with our own message that fits into a gRPC status."""
    found: list[Principal | ServiceError] = []
    for authenticator in authenticators:
        try:
            found.append(authenticator.authenticate(header))
        except ServiceError as error:
            found.append(error)
    for error in found:
        if isinstance(error, ServiceError):
            assert error.reason in (Reason.TOKEN_INVALID, Reason.TOKEN_EXPIRED, Reason.TOKEN_MISSING)
            assert error.message.startswith(OURS)
            assert error.to_status().details == error.message
    return found


HEADERS: dict[str, Any] = {
    "a critical extension that is half a character": b'{"alg":"HS256","crit":["\\ud800"]}',
    "an algorithm that is half a character": b'{"alg":"\\ud800"}',
    "a kid that is half a character": b'{"alg":"RS256","kid":"\\ud800"}',
    "a list as kid": b'{"alg":"RS256","kid":["RS256"]}',
    "an object as kid": b'{"alg":"RS256","kid":{}}',
    "a list as algorithm": b'{"alg":["HS256"]}',
    "an object as algorithm": b'{"alg":{"HS256":1}}',
    "unencoded payload": b'{"alg":"HS256","b64":false}',
    "unencoded payload, critical": b'{"alg":"HS256","b64":false,"crit":["b64"]}',
    "no critical extensions": b'{"alg":"HS256","crit":[]}',
    "open brackets": b"[" * 20_000,
    "open braces": b'{"a":' * 4_000,
    "a list": b"[]",
    "a text": b'"HS256"',
    "null": b"null",
    "no JSON": b"HS256",
    "nothing": b"",
    "NaN": b'{"alg":"HS256","a":NaN}',
    "a number of 10,000 digits": b'{"alg":"HS256","a":' + b"9" * 10_000 + b"}",
    "UTF-16": '{"alg":"HS256"}'.encode("utf-16"),
    "no UTF-8": b'{"alg":"HS256\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"alg":"HS256"}',
    "NUL": b'{"alg":"HS256"}\0',
}
BODIES: dict[str, Any] = {
    "far beyond any time": b'{"sub":"u","projects":{},"exp":1e400}',
    "a time of 401 digits": b'{"sub":"u","projects":{},"exp":1' + b"0" * 400 + b"}",
    "a time of 5,000 digits": b'{"sub":"u","projects":{},"exp":1' + b"0" * 5_000 + b"}",
    "minus infinity": b'{"sub":"u","projects":{},"exp":-Infinity}',
    "NaN": b'{"sub":"u","projects":{},"exp":NaN}',
    "brackets in a claim": b'{"sub":"u","projects":{},"exp":1,"x":' + b"[" * 20_000,
    "half a character as user": b'{"sub":"\\udfff","projects":{},"exp":%d}' % SOON,
    "half a character as project": b'{"sub":"u","projects":{"\\ud800":"OWNER"},"exp":%d}' % SOON,
    "half a character as role": b'{"sub":"u","projects":{"p":"\\ud800"},"exp":%d}' % SOON,
    "a list as role": b'{"sub":"u","projects":{"p":[]},"exp":%d}' % SOON,
    "no object": b"[]",
    "no UTF-8": b'{"sub":"\xff","projects":{},"exp":%d}' % SOON,
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_an_invalid_token(name: str, authenticators: list[TokenAuthenticator]) -> None:
    token = by_hand(HEADERS[name], json.dumps(GOOD).encode())
    for answer in answers(authenticators, f"Bearer {token}"):
        assert isinstance(answer, ServiceError)
        assert answer.reason is Reason.TOKEN_INVALID


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_with_a_good_signature_is_an_invalid_token(
    name: str, authenticators: list[TokenAuthenticator]
) -> None:
    token = by_hand(b'{"alg":"HS256"}', BODIES[name])
    for answer in answers(authenticators, f"Bearer {token}"):
        assert isinstance(answer, ServiceError)
        assert answer.reason is Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    "header",
    [
        *("Bearer " + "." * count for count in (1, 2, 3, 30_000)),
        "Bearer " + "a" * 32_000 + "." + "a" * 100 + "." + "a" * 100,
        "Bearer " + "a" * 10_000_000,
        *(f"Bearer {text}" for text in ("\ud800", "é.é.é", "\0", "a.b.c\n", "a.b.c.d.e", "====.====.====", "+/.+/.+/")),
        *("\ud800", "\0", " ", "Bearer\t", "Bearer\u00a0a.b.c", "b'Bearer a.b.c'"),
    ],
    ids=lambda header: ascii(header[:20]),
)
def test_a_hostile_header_value_is_an_invalid_token(header: str, authenticators: list[TokenAuthenticator]) -> None:
    for answer in answers(authenticators, header):
        assert isinstance(answer, ServiceError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.text(st.characters()))
@settings(deadline=None)
def test_any_text_is_answered(authenticators: list[TokenAuthenticator], text: str) -> None:
    for header in (text, f"Bearer {text}"):
        answers(authenticators, header)


@given(st.binary(max_size=200), st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_answered(authenticators: list[TokenAuthenticator], header: bytes, body: bytes) -> None:
    answers(authenticators, f"Bearer {by_hand(header, body)}")
    answers(authenticators, "Bearer " + by_hand(b'{"alg":"HS256"}', body))


@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ", "jwk"]), JSON), JSON)
@settings(deadline=None)
def test_any_json_is_answered(authenticators: list[TokenAuthenticator], header: Any, body: Any) -> None:
    answers(authenticators, f"Bearer {raw(header, body)}")
    for algorithm in ("HS256", *KEYS):
        answers(authenticators, f"Bearer {raw({**header, 'alg': algorithm, 'kid': algorithm}, body)}")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("sub", "exp", "nbf", "iat", "aud", "iss", "projects"), JSON)))
@settings(deadline=None)
def test_any_claims_are_answered(authenticators: list[TokenAuthenticator], changed: Any) -> None:
    answers(authenticators, f"Bearer {raw({'alg': 'HS256'}, {**GOOD, **changed})}")


@given(st.integers(min_value=0), st.sampled_from(" .-_=Az09+/\n\0é"), st.booleans())
@settings(deadline=None)
def test_an_altered_token_is_refused(
    authenticators: list[TokenAuthenticator], place: int, letter: str, replaces: bool
) -> None:
    token = hs256(exp=SOON)
    place %= len(token)
    altered = token[:place] + letter + token[place + replaces :]
    if altered.strip(" ") != token:
        assert all(isinstance(answer, ServiceError) for answer in answers(authenticators, f"Bearer {altered}"))


@pytest.mark.parametrize("algorithm", ["HS256", *KEYS])
def test_pyjwt_agrees_on_what_is_signed(algorithm: str, tmp_path: Path) -> None:
    """We parse tokens ourselves: for every small change to one, the result must be the same as PyJWT's."""
    authenticator = (
        TokenAuthenticator([SECRET])
        if algorithm == "HS256"
        else with_file(tmp_path / "keys", json.dumps({"keys": [jwk(algorithm)]}).encode())
    )
    signing, verifying = (SECRET, SECRET) if algorithm == "HS256" else (KEYS[algorithm], KEYS[algorithm].public_key())
    token = jwt.encode(GOOD, signing, algorithm=algorithm)
    alphabet = "AQgw_-=."
    variants = [token, *(token + end for end in ("=", "==", "A", "."))]
    variants += [token[:place] + letter + token[place + 1 :] for place in range(len(token)) for letter in alphabet]
    variants += [token[:place] + token[place + 1 :] for place in range(len(token))]
    accepted = 0
    for variant in variants:
        try:
            jwt.decode(variant, verifying, algorithms=[algorithm])
            expected = True
        except jwt.PyJWTError:
            expected = False
        (answer,) = answers([authenticator], f"Bearer {variant}")
        assert isinstance(answer, Principal) == expected, variant
        accepted += expected
    assert accepted, "the token itself is among them"
