"""What has arrived from the broker: checked before it is parsed."""

from typing import Any, Final, NamedTuple

from servicekit.broker.link import CONTENT_TYPE, VERSION_HEADER
from servicekit.broker.signing import SIGNATURE_HEADER, MessageSigner
from servicekit.broker.wrapping import MAX_BODY, REASON_HEADER, SHA256_HEADER, SIZE_HEADER, UNREADABLE, beginning

MAX_VERSION: Final = 1_000  # a version has a queue of its own
_SIGNATURE: Final = 64  # characters of a signature, or of a SHA-256
_SHOWN: Final = 100  # characters of what the sender wrote, in a reason
_KEPT_HEADERS: Final = (VERSION_HEADER, SIGNATURE_HEADER, SIZE_HEADER, SHA256_HEADER)


# Of refusals, and "content" of signed messages that cannot be read.
CAUSES: Final = ("unreadable", "content_type", "compression", "size", "version", "signature", "content")


class Refusal(NamedTuple):
    """Why a message is not looked into: `cause` for measurements, one of CAUSES, and `reason` for people."""

    cause: str
    reason: str


class Arrival(NamedTuple):
    """A message that has arrived. Of a refused one only the beginning of the body is kept in memory."""

    message: Any  # Kombu's, to be acknowledged
    body: bytes
    version: int
    refusal: Refusal | None

    def kept_headers(self) -> dict[str, object]:
        """Return the headers that go along when it is put aside: those that we may have written."""
        headers = self.message.headers
        return {name: headers[name] for name in _KEPT_HEADERS if _is_ours(headers.get(name))}


def arrival(message: Any, queue: str, signer: MessageSigner) -> Arrival:
    """Take in a message of `queue`. Nothing that can be in a message makes this raise."""
    body = _body(message)
    version = message.headers.get(VERSION_HEADER, 1)
    refusal = _refusal(message, body, version, queue, signer)
    if refusal is None:
        return Arrival(message, body, version, None)
    body, extent = beginning(body)
    message.body = body
    if message.content_type != UNREADABLE:  # else they are there already, of the entry that it stands for
        message.headers.pop(SIZE_HEADER, None)
        message.headers.pop(SHA256_HEADER, None)
        message.headers.update(extent)
    return Arrival(message, body, 1, refusal)


def _refusal(message: Any, body: bytes, version: object, queue: str, signer: MessageSigner) -> Refusal | None:
    if foreign := _foreign(message, body):
        return foreign
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        return Refusal("version", f"{VERSION_HEADER} is {_shown(version)}")
    if not signer.verifies(message.headers.get(SIGNATURE_HEADER), queue, version, body):
        problem = "its signature does not fit" if SIGNATURE_HEADER in message.headers else "it is not signed"
        return Refusal("signature", f"{problem}; do both services have the same AUTH_JWT_SECRET?")
    return None


def _foreign(message: Any, body: bytes) -> Refusal | None:
    """Return why a message cannot be ours, signed or not."""
    if message.content_type == UNREADABLE:
        return Refusal("unreadable", _shown(message.headers.get(REASON_HEADER)))
    if message.content_type != CONTENT_TYPE:
        return Refusal("content_type", f"its content type is {_shown(message.content_type)}, and not {CONTENT_TYPE}")
    if message.compression is not None:
        return Refusal("compression", f"it is compressed ({_shown(message.compression)}), which no message of ours is")
    if len(body) > MAX_BODY:
        return Refusal("size", f"it has {len(body)} bytes, and {MAX_BODY} is the most")
    return None


def _is_ours(value: object) -> bool:
    """Return whether a header may have been written by us; others are not passed on."""
    if isinstance(value, str):
        return value.isascii() and len(value) <= _SIGNATURE
    return type(value) is int and 0 <= value < 2**32


def _shown(value: object) -> str:
    """Return what a sender wrote, short and without anything that a terminal or a log could take for its own."""
    if isinstance(value, str):
        value = value[:_SHOWN]
        return value if value.isascii() and value.isprintable() else ascii(value)
    return str(value) if value is None or (isinstance(value, int) and abs(value) < 2**64) else type(value).__name__


def _body(message: Any) -> bytes:
    body = message.body
    if type(body) is bytes:
        return body
    if body is None:
        return b""
    return body.encode(errors="replace") if isinstance(body, str) else bytes(body)  # py-amqp says "" when there is none
