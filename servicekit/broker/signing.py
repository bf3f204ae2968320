"""Signatures of broker messages: who reaches the broker without the services' secret can say nothing in their name."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from servicekit.broker.link import VERSION_HEADER

SIGNATURE_HEADER: Final = "playbook-runs-signature"

_PURPOSE: Final = b"playbook-runs: signatures of broker messages"  # no key of another purpose is ever the same


class MessageSigner:
    """Signs messages with the first of `secrets`; each of them verifies.

    Without a secret nothing is signed and everything verifies: for AUTH_MODE=disabled, which listens on this machine
    only. A replayed message verifies: whatever handles messages must be idempotent anyway.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = [
            HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret.encode())
            for secret in secrets
        ]

    def headers(self, queue: str, version: int, body: bytes) -> dict[str, object]:
        """Return the headers under which a message goes to `queue`: its version, and its signature."""
        signature = {SIGNATURE_HEADER: _signature(self._keys[0], queue, version, body)} if self._keys else {}
        return {VERSION_HEADER: version, **signature}

    def verifies(self, signature: object, queue: str, version: int, body: bytes) -> bool:
        """Return whether `signature`, which may be any value, was made for this message."""
        if not self._keys:
            return True
        if not isinstance(signature, str) or not signature.isascii():
            return False
        return any(hmac.compare_digest(_signature(key, queue, version, body), signature) for key in self._keys)


def _signature(key: bytes, queue: str, version: int, body: bytes) -> str:
    name = queue.encode()
    # The length of the name, so that no other name, version and body make the same bytes.
    mac = hmac.new(key, b"%d:%s:%d:" % (len(name), name, version), hashlib.sha256)
    mac.update(body)
    return mac.hexdigest()
