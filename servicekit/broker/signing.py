"""Signatures of broker messages: a client of the broker without the services' secret cannot forge jobs or events."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from servicekit.broker.link import VERSION_HEADER

SIGNATURE_HEADER: Final = "playbook-runs-signature"

_PURPOSE: Final = b"playbook-runs broker messages"  # keeps this key apart from others of the same secret
_KEY_BYTES: Final = 32


class MessageSigner:
    """Signs messages with the first of `secrets` and accepts the signatures of each, so that they can be rotated.

    A signature is HMAC-SHA-256 (RFC 2104) over queue, version and body, by a key derived with HKDF (RFC 5869). It says
    who made a message, not when: repeating one does no harm. Without a secret nothing is signed and everything
    verifies: for AUTH_MODE=disabled, which listens on this machine only.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        # What a key begins a signature with takes as long as the rest of it; so each message begins with a copy.
        self._beginnings = [
            hmac.new(HKDF(SHA256(), _KEY_BYTES, None, _PURPOSE).derive(secret.encode()), digestmod=hashlib.sha256)
            for secret in secrets
        ]

    def headers(self, queue: str, version: int, body: bytes) -> dict[str, object]:
        """Return the headers under which a message goes to `queue`: its version, and its signature."""
        if not self._beginnings:
            return {VERSION_HEADER: version}
        return {VERSION_HEADER: version, SIGNATURE_HEADER: _signature(self._beginnings[0], queue, version, body)}

    def verifies(self, signature: object, queue: str, version: int, body: bytes) -> bool:
        """Return whether `signature`, which may be any value, was made for this message with one of the secrets."""
        if not self._beginnings:
            return True
        if not isinstance(signature, str) or not signature.isascii():
            return False
        return any(
            hmac.compare_digest(signature, _signature(beginning, queue, version, body))
            for beginning in self._beginnings
        )


def _signature(beginning: hmac.HMAC, queue: str, version: int, body: bytes) -> str:
    mac = beginning.copy()
    # The first two end where no other message's can: a name has its length before it, a number a colon after it.
    mac.update(f"{len(queue)}:{queue}{version}:".encode())
    mac.update(body)
    return mac.hexdigest()
