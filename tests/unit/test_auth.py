import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from servicekit.auth import (
    NoAuthentication,
    Principal,
    Role,
    ServiceTokens,
    TokenAuthenticator,
    load_public_keys,
)
from servicekit.errors import Reason, ServiceError
from tests.support.waiting import eventually

SECRET = "a secret of the services, 32 or more"
KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def claims(**changed: Any) -> dict[str, Any]:
    values = {"sub": "u", "exp": datetime.now(UTC) + timedelta(minutes=5), "projects": {"p": "OWNER"}} | changed
    return {name: value for name, value in values.items() if value is not None}


def hs256(**changed: Any) -> str:
    return jwt.encode(claims(**changed), SECRET, algorithm="HS256")


def raw(header: dict[str, Any], body: dict[str, Any], key: bytes = b"") -> str:
    """A token by hand, for what PyJWT refuses to write."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, body)]
    signature = hmac.new(key, b".".join(parts), hashlib.sha256).digest() if key else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def public_pem(algorithm: str) -> bytes:
    return KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def with_key(algorithm: str, tmp_path: Path) -> TokenAuthenticator:
    file = tmp_path / "key.pem"
    file.write_bytes(public_pem(algorithm))
    return TokenAuthenticator(SECRET, load_public_keys(file))


def reason_of(authenticator: TokenAuthenticator, token: str) -> Reason:
    with pytest.raises(ServiceError) as failure:
        authenticator.authenticate(f"Bearer {token}")
    return failure.value.reason


def test_a_valid_token_names_its_user_and_roles() -> None:
    principal = TokenAuthenticator(SECRET).authenticate(f"Bearer {hs256(projects={'p': 'VIEWER', '*': 'EDITOR'})}")
    assert principal.user_id == "u"
    assert (principal.role_in("p"), principal.role_in("other")) == (Role.VIEWER, Role.EDITOR)


@pytest.mark.parametrize("header", [None, ""])
def test_no_header_is_told_as_missing(header: str | None) -> None:
    with pytest.raises(ServiceError) as failure:
        TokenAuthenticator(SECRET).authenticate(header)
    assert failure.value.reason is Reason.TOKEN_MISSING


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic abc", "abc", "Bearer a.b", "Bearer a.b.c", "Bearer é"])
def test_a_header_that_is_no_token_is_refused(header: str) -> None:
    with pytest.raises(ServiceError) as failure:
        TokenAuthenticator(SECRET).authenticate(header)
    assert failure.value.reason is Reason.TOKEN_INVALID


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE"])
def test_an_unsigned_token_is_refused(algorithm: str, tmp_path: Path) -> None:
    body = claims(exp=4102444800)
    token = raw({"alg": algorithm, "typ": "JWT"}, body)
    assert reason_of(TokenAuthenticator(SECRET), token) is Reason.TOKEN_INVALID
    assert reason_of(with_key("RS256", tmp_path), token) is Reason.TOKEN_INVALID


def test_the_public_key_does_not_pass_as_an_hs256_secret(tmp_path: Path) -> None:
    token = raw({"alg": "HS256", "typ": "JWT"}, claims(exp=4102444800), public_pem("RS256"))
    assert reason_of(with_key("RS256", tmp_path), token) is Reason.TOKEN_INVALID


def test_a_wrong_signature_is_refused() -> None:
    other = jwt.encode(claims(), SECRET + "x", algorithm="HS256")
    assert reason_of(TokenAuthenticator(SECRET), other) is Reason.TOKEN_INVALID
    head, body, signature = hs256().split(".")
    forged = base64.urlsafe_b64encode(json.dumps(claims(exp=4102444800)).encode()).rstrip(b"=").decode()
    assert reason_of(TokenAuthenticator(SECRET), f"{head}.{forged}.{signature}") is Reason.TOKEN_INVALID
    assert reason_of(TokenAuthenticator(SECRET), f"{head}.{body}.") is Reason.TOKEN_INVALID


def test_an_expired_token_is_told_as_expired() -> None:
    token = hs256(exp=datetime.now(UTC) - timedelta(seconds=1))
    assert reason_of(TokenAuthenticator(SECRET), token) is Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": None},
        {"sub": None},
        {"exp": "soon"},
        {"sub": 7},
        {"projects": None},
        {"projects": []},
        {"projects": ["p"]},
        {"projects": "OWNER"},
        {"sub": "\ud800"},
        {"projects": {"p": "ADMIN"}},
        {"projects": {"p": ["OWNER"]}},
        {"projects": {"p": 3}},
        {"projects": {"p": None}},
    ],
    ids=str,
)
def test_claims_that_are_not_as_they_must_be_are_refused_whoever_signed(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    body = claims(**{"exp": 4102444800} | changed)
    hs = raw({"alg": "HS256", "typ": "JWT"}, body, SECRET.encode())
    assert reason_of(TokenAuthenticator(SECRET), hs) is Reason.TOKEN_INVALID
    pem = KEYS["EdDSA"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    signed = jwt.api_jws.encode(json.dumps(body).encode(), pem, algorithm="EdDSA")
    assert reason_of(with_key("EdDSA", tmp_path), signed) is Reason.TOKEN_INVALID


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
    assert reason_of(with_key("RS256", tmp_path), hs256()) is Reason.TOKEN_INVALID
    assert reason_of(with_key("RS256", tmp_path), hs256(projects={"p": "SERVICE"})) is Reason.TOKEN_INVALID
    service = ServiceTokens(SECRET, service="runs-service", clock=StandingClock()).token()
    principal = with_key("RS256", tmp_path).authenticate(f"Bearer {service}")
    assert principal.roles == {"*": Role.SERVICE}


def test_a_user_cannot_be_a_service(tmp_path: Path) -> None:
    for projects in ({"*": "SERVICE"}, {"p": "SERVICE"}):
        token = jwt.encode(claims(projects=projects), KEYS["ES256"], algorithm="ES256")
        assert reason_of(with_key("ES256", tmp_path), token) is Reason.TOKEN_INVALID


def jwks(tmp_path: Path, **kids: str) -> TokenAuthenticator:
    makers = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}
    keys = [
        json.loads(makers[algorithm].to_jwk(KEYS[algorithm].public_key())) | {"kid": kid, "alg": algorithm}
        for kid, algorithm in kids.items()
    ]
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": keys}))
    return TokenAuthenticator(SECRET, load_public_keys(file))


def test_a_key_set_is_asked_by_key_id(tmp_path: Path) -> None:
    authenticator = jwks(tmp_path, one="RS256", two="ES256")
    for kid, algorithm in (("one", "RS256"), ("two", "ES256")):
        token = jwt.encode(claims(), KEYS[algorithm], algorithm=algorithm, headers={"kid": kid})
        assert authenticator.authenticate(f"Bearer {token}").user_id == "u"
    for kid in ("two", "three", ""):
        token = jwt.encode(claims(), KEYS["RS256"], algorithm="RS256", headers={"kid": kid})
        assert reason_of(authenticator, token) is Reason.TOKEN_INVALID
    assert reason_of(authenticator, jwt.encode(claims(), KEYS["RS256"], algorithm="RS256")) is Reason.TOKEN_INVALID


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.EDITOR, {Role.VIEWER, Role.EDITOR}),
        (Role.OWNER, {Role.VIEWER, Role.EDITOR, Role.OWNER}),
        (Role.SERVICE, {Role.VIEWER, Role.SERVICE}),
    ],
)
def test_the_ladder_of_roles(role: Role, may: set[Role]) -> None:
    for needed in Role:
        if needed in may:
            Principal("u", {"p": role}).require(needed, "p")
        else:
            with pytest.raises(ServiceError) as failure:
                Principal("u", {"p": role}).require(needed, "p")
            assert failure.value.reason is Reason.ROLE_TOO_LOW


def test_a_project_the_token_does_not_name_is_closed() -> None:
    for project in ("q", "", "*", "P"):
        with pytest.raises(ServiceError) as failure:
            Principal("u", {"p": Role.OWNER}).require(Role.VIEWER, project)
        assert failure.value.reason is Reason.PROJECT_ACCESS_DENIED


@pytest.mark.parametrize("roles", [{"p": Role.OWNER}, {"*": Role.OWNER}, {}])
def test_who_is_no_service_is_told_that_a_method_is_for_services(roles: dict[str, Role]) -> None:
    with pytest.raises(ServiceError, match="for the services themselves") as failure:
        Principal("u", roles).require(Role.SERVICE, "*")
    assert failure.value.reason is Reason.ROLE_TOO_LOW


def test_a_role_in_one_project_wins_over_the_role_in_all() -> None:
    principal = Principal("u", {"*": Role.OWNER, "p": Role.VIEWER})
    principal.require(Role.OWNER, "q")
    with pytest.raises(ServiceError):
        principal.require(Role.OWNER, "p")


def test_without_authentication_everybody_may_everything() -> None:
    for role in Role:
        NoAuthentication().authenticate(None).require(role, "p")


class StandingClock:
    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time


def test_a_service_token_is_renewed_long_before_it_expires() -> None:
    clock = StandingClock()
    tokens = ServiceTokens(SECRET, service="runs-service", clock=clock)
    first = tokens.token()
    clock.time += timedelta(minutes=4)
    assert tokens.token() == first
    clock.time += timedelta(minutes=2)
    assert tokens.token() != first


def test_the_message_of_a_refusal_tells_no_secret() -> None:
    with pytest.raises(ServiceError) as failure:
        TokenAuthenticator(SECRET).authenticate(f"Bearer {jwt.encode(claims(), 'x' * 32, algorithm='HS256')}")
    assert SECRET not in failure.value.message


async def test_a_token_that_is_remembered_expires_all_the_same() -> None:
    authenticator = TokenAuthenticator(SECRET)
    token = hs256(exp=datetime.now(UTC) + timedelta(seconds=2.5))
    first = authenticator.authenticate(f"Bearer {token}")
    assert authenticator.authenticate(f"Bearer {token}") is first

    def expired() -> bool:
        try:
            authenticator.authenticate(f"Bearer {token}")
        except ServiceError as error:
            return error.reason is Reason.TOKEN_EXPIRED
        return False

    await eventually(expired)


def test_a_token_with_another_signature_is_not_taken_for_one_that_is_remembered() -> None:
    authenticator = TokenAuthenticator(SECRET)
    token = hs256()
    authenticator.authenticate(f"Bearer {token}")
    forged = token[:-2] + ("AA" if token[-2:] != "AA" else "BB")
    assert reason_of(authenticator, forged) is Reason.TOKEN_INVALID
