"""Tokens of every kind, good and hostile, and the keys that sign them."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from servicekit.auth.keys import PublicKeyFile
from servicekit.auth.tokens import Demands, TokenAuthenticator

SECRET = "a secret of the services: 32 or more"
LIFETIME = timedelta(hours=12)  # of a good token: some are made when the tests are collected
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def claims(**changed: Any) -> dict[str, Any]:
    """The claims of a good token; None leaves one out."""
    values = {"sub": "u", "exp": datetime.now(UTC) + LIFETIME, "projects": {"p": "OWNER"}} | changed
    return {name: value for name, value in values.items() if value is not None}


def hs256(secret: str = SECRET, **changed: Any) -> str:
    return jwt.encode(claims(**changed), secret, algorithm="HS256")


def encoded(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def by_hand(header: bytes, body: bytes, key: bytes = SECRET.encode()) -> str:
    """A token with any bytes in it, with a good HS256 signature."""
    signed = encoded(header) + b"." + encoded(body)
    return (signed + b"." + encoded(hmac.digest(key, signed, hashlib.sha256) if key else b"")).decode()


def raw(header: dict[str, Any], body: dict[str, Any], key: bytes = SECRET.encode()) -> str:
    """A token that PyJWT refuses to write. `key` b"": without a signature."""
    return by_hand(json.dumps(header).encode(), json.dumps(body).encode(), key)


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def jwk(algorithm: str, key: Any = None, **more: Any) -> dict[str, Any]:
    """The public JWK of a key for `algorithm`."""
    key = key or KEYS[algorithm]
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "alg": algorithm, **more}


def with_file(file: Path, content: bytes, demands: Demands | None = None) -> TokenAuthenticator:
    """An authenticator whose users' tokens are signed by the keys in `content`, written to `file`."""
    file.write_bytes(content)
    return TokenAuthenticator([SECRET], PublicKeyFile(file), demands)
