import json
import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from servicekit.auth.keys import MAX_FILE_BYTES, PublicKeyFile, load_public_keys, secrets_in
from servicekit.auth.tokens import ServiceTokens, TokenAuthenticator
from servicekit.errors import Reason, ServiceError
from tests.support.tokens import KEYS, SECRET, claims, jwk, public_pem
from tests.unit.test_tokens import StandingClock

NEW = ed25519.Ed25519PrivateKey.generate()


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def refusal(tmp_path: Path, content: bytes) -> str:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=file.name) as failure:
        load_public_keys(file)
    return str(failure.value)


# Secrets


def test_secrets_are_separated_by_commas() -> None:
    one, two = "1" * 32, "2" * 40
    assert secrets_in(one) == (one,)
    assert secrets_in(f"{one}, {two}") == (one, two)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("hidden", "the secret is too short: 32 characters"),
        ("{},hidden", "secret 2 of 2 is too short"),
        ("hidden,{}", "secret 1 of 2 is too short"),
        ("{},", "secret 2 of 2 is empty"),
        (",{}", "secret 1 of 2 is empty"),
        ("{},,{}", "secret 2 of 3 is empty"),
        ("{}, ,{}", "secret 2 of 3 is empty"),
        (" ", "the secret is empty"),
        ("{}\udcff", "the secret is not UTF-8"),
        (public_pem(KEYS["RS256"]).decode(), "the secret is a key for another algorithm"),
    ],
)
def test_a_bad_secret_is_named_by_its_position_and_not_shown(value: str, why: str) -> None:
    good = "a secret that no message may show"
    with pytest.raises(ValueError, match="secret") as failure:
        secrets_in(value.format(good, good) if "BEGIN" not in value else value)
    assert why in str(failure.value)
    assert good not in str(failure.value)
    assert "hidden" not in str(failure.value)


# Files


def test_a_pem_file_may_have_several_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"the old one\n" + public_pem(KEYS["RS256"]) + b"the new one\n" + public_pem(NEW))
    assert [key.algorithm for key in load_public_keys(file)] == ["RS256", "EdDSA"]


def test_keys_of_a_set_that_are_for_something_else_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    others = [
        jwk("RS256", kid="encryption", use="enc", alg="RSA-OAEP"),
        jwk("RS256", kid="operations", key_ops=["encrypt"]),
        jwk("ES384", ec.generate_private_key(ec.SECP384R1()), kid="curve"),
        {"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "agreement"},
        {"kty": "AKP", "kid": "of the future"},
    ]
    file.write_bytes(key_set(*others, jwk("ES256", kid="good", use="sig")))
    assert [key.key_id for key in load_public_keys(file)] == ["good"]
    message = refusal(tmp_path, key_set(*others))
    assert "has no key that verifies tokens" in message
    for entry in others:
        assert f"(kid '{entry['kid']}') is " in message


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (public_pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)), "RSA of 1024 bits; 2,048 or more"),
        (
            key_set(jwk("RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024), kid="weak")),
            "(kid 'weak') is RSA of 1024 bits; 2,048 or more",
        ),
        (public_pem(ec.generate_private_key(ec.SECP384R1())), "secp384r1; ES256 needs P-256"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), "secp256k1; ES256 needs P-256"),
        (public_pem(ed448.Ed448PrivateKey.generate()), "neither RSA nor EC on P-256 nor Ed25519"),
        (public_pem(dsa.generate_private_key(1024)), "neither RSA nor EC on P-256 nor Ed25519"),
        (private_pem(KEYS["ES256"]), "has a private key"),
        (public_pem(NEW) + private_pem(NEW), "has a private key"),
        (
            key_set(jwk("RS256"), jwt.get_algorithm_by_name("EdDSA").to_jwk(NEW, as_dict=True)),
            "has a private or symmetric key (key 2)",
        ),
        (key_set(jwk("RS256"), {"kty": "oct", "k": "c2VjcmV0", "kid": "s"}), "private or symmetric key"),
        (key_set(jwk("RS256", n=5)), "has a JWK that cannot be read: key 1"),
        (key_set({"kty": "RSA", "kid": "empty"}), "has a JWK that cannot be read: key 1 (kid 'empty')"),
        (key_set(jwk("RS256", kid=7)), "a kid that is no text"),
        (key_set(), "has no key that verifies tokens"),
        (b'{"keys": 5}', "no JWKS"),
        (b'{"keys": [5]}', "no JWKS"),
        (b"{}", "no JWKS"),
        (b'{"keys":' + b"[" * 100_000, "no JWKS"),
        (b"", "no PEM public key"),
        (b"\xff\xfe", "no PEM public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no PEM public key"),
        (public_pem(NEW)[:-30], "no PEM public key"),
        (b" " * (MAX_FILE_BYTES + 1), "has more than 256 kB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_key_file_with_anything_but_valid_public_keys_is_refused_with_the_reason(
    content: bytes, why: str, tmp_path: Path
) -> None:
    assert why in refusal(tmp_path, content)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(ValueError, match="is a pipe"):
        load_public_keys(tmp_path / "keys")


# Rotation


class Rotation:
    """An authenticator whose key file is replaced while it works, and a clock that the test sets."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.clock = StandingClock()
        file.write_bytes(public_pem(KEYS["EdDSA"]))
        self.authenticator = TokenAuthenticator([SECRET], PublicKeyFile(file), now=self.clock.seconds)
        self.old = jwt.encode(claims(), KEYS["EdDSA"], algorithm="EdDSA")
        self.new = jwt.encode(claims(), NEW, algorithm="EdDSA")
        assert self.accepted() == {"old"}  # and it is remembered

    def pass_time(self, seconds: float = 1.1) -> None:
        self.clock.time += timedelta(seconds=seconds)

    def replace(self, content: bytes) -> None:
        draft = self.file.with_suffix(".draft")
        draft.write_bytes(content)
        draft.replace(self.file)
        self.pass_time()

    def accepted(self) -> set[str]:
        return {name for name in ("old", "new") if self._accepts(getattr(self, name))}

    def _accepts(self, token: str) -> bool:
        try:
            self.authenticator.authenticate(f"Bearer {token}")
        except ServiceError as error:
            if error.reason is not Reason.TOKEN_INVALID:
                raise
            return False
        return True


@pytest.fixture
def rotation(tmp_path: Path) -> Rotation:
    return Rotation(tmp_path / "keys")


def test_a_replaced_key_file_is_read_again_and_cached_tokens_are_dropped(
    rotation: Rotation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rotation.replace(public_pem(KEYS["EdDSA"]) + public_pem(NEW))
    assert rotation.accepted() == {"old", "new"}
    rotation.replace(public_pem(NEW))
    assert rotation.accepted() == {"new"}
    rotation.replace(key_set(jwk("EdDSA")))
    assert rotation.accepted() == {"old"}
    assert caplog.messages.count("AUTH_JWT_PUBLIC_KEY_FILE was replaced; keys in it: 1") == 2


def test_a_file_of_the_same_size_and_time_is_noticed(rotation: Rotation) -> None:
    before = rotation.file.stat()
    rotation.file.write_bytes(public_pem(NEW))
    os.utime(rotation.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rotation.file.stat().st_size == before.st_size
    rotation.pass_time()
    assert rotation.accepted() == {"new"}


def test_a_link_that_is_turned_elsewhere_is_followed(tmp_path: Path) -> None:
    """As Kubernetes does: the file is a link into a folder that is a link to a folder of today."""
    for name, key in (("monday", KEYS["EdDSA"]), ("tuesday", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys").write_bytes(public_pem(key))
    (tmp_path / "data").symlink_to("monday")
    (tmp_path / "keys").symlink_to("data/keys")
    rotation = Rotation(tmp_path / "keys")
    (tmp_path / "data.new").symlink_to("tuesday")
    (tmp_path / "data.new").replace(tmp_path / "data")
    rotation.pass_time()
    assert rotation.accepted() == {"new"}


@pytest.mark.parametrize(
    "broken",
    [b"", b"half a k", public_pem(NEW)[:60], b'{"keys": [', private_pem(NEW)],
    ids=["empty", "no key", "half a key", "half a key set", "private"],
)
def test_a_file_that_is_broken_keeps_the_keys_and_is_logged_once(
    broken: bytes, rotation: Rotation, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        rotation.replace(broken)
        assert rotation.accepted() == {"old"}
    (warning,) = caplog.messages
    assert "AUTH_JWT_PUBLIC_KEY_FILE: " in warning
    assert "go on being accepted" in warning
    rotation.replace(public_pem(NEW))
    assert rotation.accepted() == {"new"}


def test_a_file_that_is_gone_keeps_the_keys(rotation: Rotation, caplog: pytest.LogCaptureFixture) -> None:
    rotation.file.unlink()
    for _ in range(2):
        rotation.pass_time()
        assert rotation.accepted() == {"old"}
    (warning,) = caplog.messages
    assert "No such file" in warning
    rotation.replace(public_pem(KEYS["EdDSA"]))
    assert rotation.accepted() == {"old"}


def test_the_file_is_looked_at_once_a_second_at_most(rotation: Rotation) -> None:
    rotation.pass_time()
    assert rotation.accepted() == {"old"}
    rotation.file.write_bytes(public_pem(NEW))
    rotation.pass_time(0.5)
    assert rotation.accepted() == {"old"}
    rotation.pass_time(0.6)
    assert rotation.accepted() == {"new"}


def test_the_services_tokens_survive_a_rotation_of_the_users_keys(rotation: Rotation) -> None:
    token = ServiceTokens(SECRET, service="runs-service", clock=rotation.clock).token()
    for key in (NEW, KEYS["EdDSA"]):
        assert rotation.authenticator.authenticate(f"Bearer {token}").user_id == "runs-service"
        rotation.replace(public_pem(key))
