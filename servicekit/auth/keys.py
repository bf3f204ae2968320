"""The keys that verify tokens: shared secrets, and public keys in a file that may be replaced at any time."""

import json
import logging
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

logger = logging.getLogger(__name__)

MIN_SECRET = 32  # characters
MIN_RSA_BITS = 2_048
MAX_FILE_BYTES = 256 * 1024  # hundreds of keys; reading them blocks the event loop
REREAD_INTERVAL = 1.0  # seconds

_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_KINDS: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}  # by the `kty` of a JWK
_PRIVATE_PARTS: Final = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}
# What the libraries raise for bytes that are no key.
_UNREADABLE: Final = (
    *(jwt.PyJWTError, UnsupportedAlgorithm),
    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies tokens of one algorithm. The key determines the algorithm, never the token."""

    algorithm: str  # HS256, RS256, ES256 or EdDSA
    material: Any  # what PyJWT's implementation of the algorithm takes
    key_id: str | None = None  # None: for tokens with any `kid`, and with none

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        """Return whether `signature` is a signature of `signed` by this key."""
        good: bool = jwt.get_algorithm_by_name(self.algorithm).verify(signed, self.material, signature)
        return good


def secrets_in(value: str) -> tuple[str, ...]:
    """Return the comma-separated secrets in `value`. Raises ValueError, whose message has no secret in it."""
    secrets = tuple(secret.strip() for secret in value.split(","))
    for place, secret in enumerate(secrets, start=1):
        which = f"secret {place} of {len(secrets)}" if len(secrets) > 1 else "the secret"
        if not secret:
            raise ValueError(f"{which} is empty; is there a comma too many?")
        if len(secret) < MIN_SECRET:
            raise ValueError(
                f"{which} is too short: {MIN_SECRET} characters or more are needed; commas separate secrets"
            )
        try:
            secret_key(secret)
        except UnicodeEncodeError:
            raise ValueError(f"{which} is not UTF-8") from None
        except jwt.InvalidKeyError:
            raise ValueError(
                f"{which} is a key for another algorithm (PEM, SSH or JWK); HS256 needs a secret"
            ) from None
    return secrets


def secret_key(secret: str) -> Key:
    """Return the HS256 key of `secret`."""
    return Key("HS256", jwt.get_algorithm_by_name("HS256").prepare_key(secret))


class PublicKeyFile:
    """The public keys in `file` (PEM or JWKS), which may be replaced at any time.

    The constructor raises OSError or ValueError when the file is bad.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._content = _content(file)
        self._read_at = 0.0
        self._complaint = ""
        self.keys = _keys(file, self._content)

    def read_again(self, now: float) -> bool:
        """Read the file again, at most once a second (`now` is in seconds), and return whether its keys have changed.

        A file that is bad or missing changes nothing, and is logged: somebody may be writing it just now.
        """
        if 0 <= now - self._read_at < REREAD_INTERVAL:
            return False
        self._read_at = now
        try:
            # Compares contents, for two versions can have the same time and size.
            content = _content(self._file)
            if content == self._content:
                self._complaint = ""
                return False
            keys = _keys(self._file, content)
        except (OSError, ValueError) as error:
            self._complain(
                f"{self._file} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
            )
            return False
        self._content, self._complaint = content, ""
        if keys == self.keys:
            return False
        self.keys = keys
        logger.info("AUTH_JWT_PUBLIC_KEY_FILE was replaced; keys in it: %d", len(keys))
        return True

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("AUTH_JWT_PUBLIC_KEY_FILE: %s; the keys it had before go on being accepted", complaint)


def load_public_keys(file: Path) -> tuple[Key, ...]:
    """Return the keys in a PEM or JWKS file. Raises OSError, and ValueError when it has none or a bad one."""
    return _keys(file, _content(file))


def _content(file: Path) -> bytes:
    if stat.S_ISFIFO(file.stat().st_mode):
        raise ValueError(f"{file} is a pipe; a file is needed, which can be read again")
    with file.open("rb") as stream:
        content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{file} has more than {MAX_FILE_BYTES // 1024} kB; which file is it?")
    return content


def _keys(file: Path, content: bytes) -> tuple[Key, ...]:
    try:
        return _keys_of_set(content) if content.lstrip().startswith(b"{") else _keys_of_pem(content)
    except _NoKey as error:
        raise ValueError(f"{file} {error}") from None
    except _UNREADABLE:
        raise ValueError(f"{file} has no PEM public key (-----BEGIN PUBLIC KEY-----) and no JWKS") from None


class _NoKey(Exception):
    """A file has something else than good keys. The message continues after the file's name."""


def _keys_of_pem(content: bytes) -> tuple[Key, ...]:
    blocks = [(match[1], match[0]) for match in _PEM.finditer(content)]
    if any(label.endswith(b"PRIVATE KEY") for label, _ in blocks):
        raise _NoKey("has a private key; only public keys may be in it: openssl pkey -pubout")
    if any(label.endswith(b"CERTIFICATE") for label, _ in blocks):
        raise _NoKey("has a certificate; the public key in it is wanted: openssl x509 -pubkey -noout")
    keys = [load_pem_public_key(block) for _, block in blocks]
    if not keys:
        raise ValueError
    return tuple(Key(_algorithm(key), key) for key in keys)


def _keys_of_set(content: bytes) -> tuple[Key, ...]:
    entries = json.loads(content)["keys"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _NoKey("has no PEM public key (-----BEGIN PUBLIC KEY-----) and no JWKS")
    keys, skipped = [], []
    for place, entry in enumerate(entries, start=1):
        name = f"key {place} (kid {entry['kid']!r})" if "kid" in entry else f"key {place}"
        # A published set may contain keys for other purposes, but no private key: that one is compromised.
        if entry.get("kty") == "oct" or _PRIVATE_PARTS & entry.keys():
            raise _NoKey(f"has a private or symmetric key ({name}); only public keys may be in it")
        if reason := _other_purpose(entry):
            skipped.append(f"{name} {reason}")
            continue
        try:
            material = jwt.get_algorithm_by_name(_KINDS[entry["kty"]]).from_jwk(entry)
        except _UNREADABLE:
            raise _NoKey(f"has a JWK that cannot be read: {name}") from None
        keys.append(Key(_algorithm(material, name), material, entry.get("kid")))
    if not keys:
        raise _NoKey("has no key that verifies tokens" + "".join(f"; {reason}" for reason in skipped))
    return tuple(keys)


def _other_purpose(entry: Mapping[str, Any]) -> str:
    """Return why a key of a set cannot verify our tokens; "": it can."""
    if entry.get("use", "sig") != "sig":
        return "is not for signatures (use)"
    if "verify" not in entry.get("key_ops", ["verify"]):
        return "is not for verifying (key_ops)"
    algorithm = _KINDS.get(str(entry.get("kty")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return "is of another algorithm than RS256, ES256 and EdDSA (kty, alg)"
    if entry.get("crv", "") not in {"RS256": ("",), "ES256": ("P-256",), "EdDSA": ("Ed25519",)}[algorithm]:
        return "is on another curve than P-256 and Ed25519 (crv)"
    if not isinstance(entry.get("kid", ""), str):
        return "has a kid that is no text"
    return ""


def _algorithm(key: Any, name: str = "a key") -> str:
    """Return the algorithm of `key`. Raises _NoKey when it suits none."""
    if isinstance(key, RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise _NoKey(f"has a weak key: {name} is RSA of {key.key_size} bits; {MIN_RSA_BITS:,} or more are needed")
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey):
        if not isinstance(key.curve, SECP256R1):
            raise _NoKey(f"has a key that no accepted algorithm uses: {name} is on {key.curve.name}; ES256 needs P-256")
        return "ES256"
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    raise _NoKey(f"has a key that no accepted algorithm uses: {name} is neither RSA nor EC on P-256 nor Ed25519")
