import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from servicekit.auth.principals import Role
from servicekit.auth.tokens import LEEWAY, MAX_CHARACTERS, MAX_LIFETIME, Demands, ServiceTokens, TokenAuthenticator
from servicekit.errors import Reason, ServiceError
from tests.support.tokens import KEYS, SECRET, claims, hs256, jwk, public_pem, raw, with_file


def with_key(algorithm: str, tmp_path: Path) -> TokenAuthenticator:
    return with_file(tmp_path / "key.pem", public_pem(KEYS[algorithm]))


def refusal(authenticator: TokenAuthenticator, token: str) -> tuple[Reason, str]:
    with pytest.raises(ServiceError) as failure:
        authenticator.authenticate(f"Bearer {token}")
    return failure.value.reason, failure.value.message


def reason_of(authenticator: TokenAuthenticator, token: str) -> Reason:
    return refusal(authenticator, token)[0]


def invalid(authenticator: TokenAuthenticator, token: str, why: str) -> None:
    reason, message = refusal(authenticator, token)
    assert reason is Reason.TOKEN_INVALID
    assert why in message


class StandingClock:
    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time

    def seconds(self) -> float:
        return self.time.timestamp()


# The header


def test_a_valid_token_names_its_user_and_roles() -> None:
    principal = TokenAuthenticator([SECRET]).authenticate(f"Bearer {hs256(projects={'p': 'VIEWER', '*': 'EDITOR'})}")
    assert principal.user_id == "u"
    assert (principal.role_in("p"), principal.role_in("other")) == (Role.VIEWER, Role.EDITOR)


@pytest.mark.parametrize("spelling", ["Bearer {}", "bearer {}", "BEARER  {}", "Bearer {} "])
def test_how_the_header_is_spelled_does_not_matter(spelling: str) -> None:
    authenticator = TokenAuthenticator([SECRET])
    token = hs256()
    for _ in range(2):
        assert authenticator.authenticate(spelling.format(token)).user_id == "u"


@pytest.mark.parametrize("header", [None, ""])
def test_no_header_is_a_missing_token(header: str | None) -> None:
    with pytest.raises(ServiceError) as failure:
        TokenAuthenticator([SECRET]).authenticate(header)
    assert failure.value.reason is Reason.TOKEN_MISSING


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic abc", "abc", "Bearer a.b", "Bearer a.b.c", "Bearer é"])
def test_a_header_that_is_no_token_is_refused(header: str) -> None:
    with pytest.raises(ServiceError) as failure:
        TokenAuthenticator([SECRET]).authenticate(header)
    assert failure.value.reason is Reason.TOKEN_INVALID


def test_a_remembered_token_needs_its_scheme_all_the_same() -> None:
    authenticator = TokenAuthenticator([SECRET])
    token = hs256()
    authenticator.authenticate(f"Bearer {token}")
    for header in (f"Basic {token}", token, f" {token}"):
        with pytest.raises(ServiceError):
            authenticator.authenticate(header)


def test_a_token_that_lists_200_shops_is_good_and_one_without_end_is_refused() -> None:
    authenticator = TokenAuthenticator([SECRET])
    shops = {f"shop-{number:020}": "OWNER" for number in range(200)}
    token = hs256(projects=shops)
    assert 8_000 < len(token) < 16_000
    assert authenticator.authenticate(f"Bearer {token}").role_in(f"shop-{199:020}") is Role.OWNER
    invalid(authenticator, hs256(projects={"p" * MAX_CHARACTERS: "OWNER"}), "32,768 are accepted")


# Signatures


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS512", "ES256K", "PS256", "", None, 7, ["HS256"], {}])
def test_a_token_of_another_algorithm_is_refused(algorithm: Any, tmp_path: Path) -> None:
    body = claims(exp=datetime.now(UTC).timestamp() + 60)
    for key in (b"", SECRET.encode()):
        token = raw({"alg": algorithm, "typ": "JWT"}, body, key)
        invalid(TokenAuthenticator([SECRET]), token, "accepted are HS256")
        invalid(with_key("RS256", tmp_path), token, "accepted are HS256, RS256")


def test_the_public_key_does_not_pass_as_an_hs256_secret(tmp_path: Path) -> None:
    body = claims(exp=datetime.now(UTC).timestamp() + 60, projects={"*": "SERVICE"})
    token = raw({"alg": "HS256", "typ": "JWT"}, body, public_pem(KEYS["RS256"]))
    invalid(with_key("RS256", tmp_path), token, "its signature")


def test_a_wrong_signature_is_refused() -> None:
    authenticator = TokenAuthenticator([SECRET])
    invalid(authenticator, hs256(SECRET + "x"), "its signature")
    head, body, signature = hs256().split(".")
    forged = base64.urlsafe_b64encode(json.dumps(claims(exp=4102444800)).encode()).rstrip(b"=").decode()
    invalid(authenticator, f"{head}.{forged}.{signature}", "its signature")
    invalid(authenticator, f"{head}.{body}.", "its signature")


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_public_key_checks_users_tokens(algorithm: str, tmp_path: Path) -> None:
    token = jwt.encode(claims(), KEYS[algorithm], algorithm=algorithm)
    assert with_key(algorithm, tmp_path).authenticate(f"Bearer {token}").user_id == "u"


@pytest.mark.parametrize("configured", KEYS)
@pytest.mark.parametrize("signed", KEYS)
def test_a_token_of_another_key_or_kind_is_refused(configured: str, signed: str, tmp_path: Path) -> None:
    if configured == signed:
        stranger = {
            "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
        }[signed]()
    else:
        stranger = KEYS[signed]
    token = jwt.encode(claims(), stranger, algorithm=signed)
    assert reason_of(with_key(configured, tmp_path), token) is Reason.TOKEN_INVALID


def test_with_a_public_key_the_secret_signs_no_users(tmp_path: Path) -> None:
    authenticator = with_key("RS256", tmp_path)
    invalid(authenticator, hs256(), "must be signed by the configured public key")
    invalid(authenticator, hs256(projects={"p": "SERVICE"}), "must be signed by the configured public key")
    service = ServiceTokens(SECRET, service="runs-service", clock=StandingClock()).token()
    assert authenticator.authenticate(f"Bearer {service}").roles == {"*": Role.SERVICE}


def test_a_user_cannot_be_a_service(tmp_path: Path) -> None:
    for projects in ({"*": "SERVICE"}, {"p": "SERVICE"}):
        token = jwt.encode(claims(projects=projects), KEYS["ES256"], algorithm="ES256")
        invalid(with_key("ES256", tmp_path), token, "SERVICE")


def test_the_keys_of_a_set_go_by_key_id(tmp_path: Path) -> None:
    keys = [jwk("RS256", kid="one"), jwk("ES256", kid="two")]
    authenticator = with_file(tmp_path / "jwks.json", json.dumps({"keys": keys}).encode())
    for kid, algorithm in (("one", "RS256"), ("two", "ES256")):
        token = jwt.encode(claims(), KEYS[algorithm], algorithm=algorithm, headers={"kid": kid})
        assert authenticator.authenticate(f"Bearer {token}").user_id == "u"
    for kid in ("two", "three", ""):
        token = jwt.encode(claims(), KEYS["RS256"], algorithm="RS256", headers={"kid": kid})
        invalid(authenticator, token, "key id (kid)")
    invalid(authenticator, jwt.encode(claims(), KEYS["RS256"], algorithm="RS256"), "key id (kid)")


def test_the_message_of_a_refusal_has_no_secret() -> None:
    _, message = refusal(TokenAuthenticator([SECRET]), hs256("x" * 32))
    assert SECRET not in message


# Several secrets


def test_the_first_secret_signs_and_each_verifies() -> None:
    old, new = "the secret that goes, 32 characters", "the secret that comes, 32 characters"
    before, during, swapped, after = ([old], [old, new], [new, old], [new])
    for signing, verifying in ((before, during), (during, before), (during, swapped), (swapped, during)):
        token = ServiceTokens(signing[0], service="runs-service", clock=StandingClock()).token()
        assert TokenAuthenticator(verifying).authenticate(f"Bearer {token}").user_id == "runs-service"
    invalid(TokenAuthenticator(after), hs256(old), "its signature")


# Claims


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"exp": None}, "`exp` is missing"),
        ({"sub": None}, "`sub` is missing"),
        ({"projects": None}, "`projects` is missing"),
        ({"exp": "soon"}, "`exp` is no time"),
        ({"exp": True}, "`exp` is no time"),
        ({"exp": 10**400}, "`exp` is no time"),
        ({"exp": -1}, "`exp` is no time"),
        ({"exp": [1]}, "`exp` is no time"),
        ({"iat": "now"}, "`iat` is no time"),
        ({"nbf": {}}, "`nbf` is no time"),
        ({"sub": 7}, "`sub` must be"),
        ({"sub": ""}, "`sub` must be"),
        ({"sub": "u" * 256}, "`sub` must be"),
        *(({"sub": f"u{c}v"}, "`sub` must be") for c in ("\0", "\n", "\x1b", "\x7f", "\x9b", "\u2028", "\u2029")),
        ({"sub": "\ud800"}, "`sub` must be"),
        ({"projects": []}, "must map"),
        ({"projects": ["p"]}, "must map"),
        ({"projects": "OWNER"}, "must map"),
        ({"projects": {"p\x1b]52;": "OWNER"}}, "control characters"),
        ({"projects": {"p\ud800": "OWNER"}}, "control characters"),
        ({"projects": {"p": "ADMIN"}}, "a role other than"),
        ({"projects": {"p": ["OWNER"]}}, "a role other than"),
        ({"projects": {"p": 3}}, "a role other than"),
        ({"projects": {"p": None}}, "a role other than"),
    ],
    ids=str,
)
def test_claims_that_are_not_as_they_must_be_are_refused_by_name(
    changed: dict[str, Any], why: str, tmp_path: Path
) -> None:
    body = claims(**{"exp": datetime.now(UTC).timestamp() + 60} | changed)
    invalid(TokenAuthenticator([SECRET]), raw({"alg": "HS256", "typ": "JWT"}, body), why)
    signed = jwt.api_jws.encode(json.dumps(body).encode(), KEYS["EdDSA"], algorithm="EdDSA")
    invalid(with_key("EdDSA", tmp_path), signed, why)


@pytest.mark.parametrize("sub", ["u", "u" * 255, "auth0|5f7c8ec7", "Zoë 👩‍🚀", "a\u202eb"])
def test_other_subjects_are_good(sub: str) -> None:
    assert TokenAuthenticator([SECRET]).authenticate(f"Bearer {hs256(sub=sub)}").user_id == sub


def test_clocks_may_differ_by_half_a_minute() -> None:
    clock = StandingClock()
    authenticator = TokenAuthenticator([SECRET], now=clock.seconds)
    now, little, much = clock.time, timedelta(seconds=LEEWAY - 2), timedelta(seconds=LEEWAY + 2)
    for good in ({"exp": now - little}, {"iat": now + little}, {"nbf": now + little}):
        assert authenticator.authenticate(f"Bearer {hs256(**good)}").user_id == "u"
    assert reason_of(authenticator, hs256(exp=now - much)) is Reason.TOKEN_EXPIRED
    invalid(authenticator, hs256(iat=now + much), "not valid yet (iat)")
    invalid(authenticator, hs256(nbf=now + much), "not valid yet (nbf)")


def test_a_token_that_is_valid_for_too_long_is_refused() -> None:
    clock = StandingClock()
    authenticator = TokenAuthenticator([SECRET], now=clock.seconds)
    assert authenticator.authenticate(f"Bearer {hs256(exp=clock.time + MAX_LIFETIME)}").user_id == "u"
    long = hs256(exp=clock.time + MAX_LIFETIME + timedelta(hours=1))
    invalid(authenticator, long, "AUTH_JWT_MAX_LIFETIME_SECONDS")
    # With `iat` it stays refused: its lifetime does not get shorter.
    dated = hs256(iat=clock.time, exp=clock.time + MAX_LIFETIME + timedelta(hours=1))
    clock.time += timedelta(hours=2)
    invalid(authenticator, dated, "AUTH_JWT_MAX_LIFETIME_SECONDS")
    short = TokenAuthenticator([SECRET], demands=Demands(max_lifetime=timedelta(minutes=10)), now=clock.seconds)
    invalid(short, hs256(exp=clock.time + timedelta(minutes=20)), "600 s are accepted")


def test_audience_and_issuer_are_free_unless_configured() -> None:
    for more in ({"aud": "anybody"}, {"aud": ["a", "b"]}, {"iss": "https://somewhere"}, {"aud": 7}, {}):
        assert TokenAuthenticator([SECRET]).authenticate(f"Bearer {hs256(**more)}").user_id == "u"


def test_a_configured_audience_must_be_in_the_token() -> None:
    authenticator = TokenAuthenticator([SECRET], demands=Demands(audience="playbooks"))
    for good in ("playbooks", ["playbooks"], ["other", "playbooks"]):
        assert authenticator.authenticate(f"Bearer {hs256(aud=good)}").user_id == "u"
    for bad in ("playbook", "playbooks,other", ["other"], [["playbooks"]], {"playbooks": 1}, 7, True, []):
        invalid(authenticator, hs256(aud=bad), "another audience")
    invalid(authenticator, hs256(), "`aud` is missing")


def test_a_configured_issuer_must_be_in_the_token() -> None:
    authenticator = TokenAuthenticator([SECRET], demands=Demands(issuer="https://login.example"))
    assert authenticator.authenticate(f"Bearer {hs256(iss='https://login.example')}").user_id == "u"
    invalid(authenticator, hs256(iss="https://login.example/"), "another issuer")
    soon = datetime.now(UTC).timestamp() + 60
    invalid(authenticator, raw({"alg": "HS256"}, claims(exp=soon, iss=["https://login.example"])), "another issuer")
    invalid(authenticator, hs256(), "`iss` is missing")


def test_the_services_own_tokens_are_what_they_demand() -> None:
    demands = Demands("playbooks", "https://login.example", timedelta(minutes=10))
    token = ServiceTokens(SECRET, service="runs-service", clock=StandingClock(), demands=demands).token()
    principal = TokenAuthenticator([SECRET], demands=demands).authenticate(f"Bearer {token}")
    assert principal.roles == {"*": Role.SERVICE}


# What is remembered


def test_a_service_token_is_renewed_long_before_it_expires() -> None:
    clock = StandingClock()
    tokens = ServiceTokens(SECRET, service="runs-service", clock=clock)
    first = tokens.token()
    clock.time += timedelta(minutes=4)
    assert tokens.token() == first
    clock.time += timedelta(minutes=2)
    assert tokens.token() != first


def test_a_token_that_is_remembered_expires_all_the_same() -> None:
    clock = StandingClock()
    authenticator = TokenAuthenticator([SECRET], now=clock.seconds)
    token = hs256(exp=clock.time + timedelta(minutes=1))
    first = authenticator.authenticate(f"Bearer {token}")
    assert authenticator.authenticate(f"Bearer {token}") is first
    clock.time += timedelta(minutes=2)
    assert reason_of(authenticator, token) is Reason.TOKEN_EXPIRED


def test_a_token_with_another_signature_does_not_match_a_cached_one() -> None:
    authenticator = TokenAuthenticator([SECRET])
    token = hs256()
    authenticator.authenticate(f"Bearer {token}")
    forged = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    assert reason_of(authenticator, forged) is Reason.TOKEN_INVALID
