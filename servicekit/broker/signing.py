"""Signatures of broker messages: who reaches the broker without the services' secret gives them no orders."""

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PURPOSE = b"playbook-runs broker messages"  # keeps this key apart from others that are derived from the same secret
KEY_BYTES = 32


class MessageSigner:
    """Signs messages with the first of `secrets` and accepts the signatures of each, so that they can be rotated.

    A signature is HMAC-SHA-256 (RFC 2104) over queue, version and body, by a key derived with HKDF (RFC 5869). It says
    who made a message, not when: repeating one does no harm.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise ValueError("a signer needs a secret")
        self._keys = [
            HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=PURPOSE).derive(secret.encode())
            for secret in secrets
        ]

    def sign(self, queue: str, version: int, body: bytes) -> str:
        """Return the signature of a message to `queue`, as 64 hex digits."""
        return _signature(self._keys[0], queue, version, body)

    def is_genuine(self, signature: object, queue: str, version: int, body: bytes) -> bool:
        """Tell whether a holder of one of the secrets signed this message to this queue."""
        if not isinstance(signature, str) or not signature.isascii():
            return False
        return any(hmac.compare_digest(signature, _signature(key, queue, version, body)) for key in self._keys)


def signer_of(secrets: Sequence[str]) -> MessageSigner | None:
    """Return the signer for these secrets; None without any (AUTH_MODE=disabled, and no AUTH_JWT_SECRET)."""
    return MessageSigner(secrets) if secrets else None


def _signature(key: bytes, queue: str, version: int, body: bytes) -> str:
    # The first two end where no other message's can: a name has its length before it, a number a colon after it.
    named = hmac.new(key, f"{len(queue)}:{queue}{version}:".encode(), hashlib.sha256)
    named.update(body)
    return named.hexdigest()
