"""Taking messages from Kombu as they were sent: nothing is unpacked, and an entry that is no message stops nobody."""

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Final

import kombu
from kombu.exceptions import OperationalError
from kombu.message import Message

from servicekit.broker.link import CONTENT_TYPE, MAX_BODY, REASON_HEADER, SIGNATURE_HEADER, VERSION_HEADER

logger = logging.getLogger(__name__)

REASON_LIMIT: Final = 500  # characters
COPY_LIMIT: Final = 65_536  # bytes of a dead letter's body that are kept
SIZE_HEADER: Final = "playbook-runs-size"  # of the whole body, where not all of it is kept
DIGEST_HEADER: Final = "playbook-runs-sha256"  # the same


class _AsSent(Message):  # type: ignore[misc]  # kombu has no types
    """A message that stays as it was sent. Kombu unpacks what a header names as compressed the moment it comes in,
    without a bound."""

    def __init__(self, *arguments: Any, headers: object = None, **more: Any) -> None:
        kept = dict(headers) if isinstance(headers, Mapping) else {}
        self.compression = kept.pop("compression", None)
        super().__init__(*arguments, headers=kept, **more)


def take_as_sent(channel: Any) -> Any:
    """Return a channel of Kombu's whose messages are not unpacked."""
    # Between the transport's message, which reads what came, and Kombu's, which would unpack it.
    channel.Message = type("AsSent", (channel.Message, _AsSent), {})
    return channel


def receive(connection: kombu.Connection, timeout: float) -> bool:
    """Let one message in, waiting at most `timeout` seconds; tell whether anything came.

    An entry of a Redis list that is no message of Kombu's is dropped: Kombu has taken it off the list when it finds
    out. Raises what Kombu raises when the connection is broken.
    """
    try:
        connection.drain_events(timeout=timeout)
    except TimeoutError:
        return False
    except (OSError, OperationalError, *connection.connection_errors, *connection.channel_errors):
        raise
    except Exception as error:
        # Without its trace, which has what the entry holds.
        logger.error("an entry that is no message was dropped: %s", type(error).__name__)  # noqa: TRY400
    return True


def body_of(message: Any) -> bytes:
    """Return the body of a message. Some transports say "" or None when there is none."""
    body = message.body or b""
    return body.encode(errors="surrogatepass") if isinstance(body, str) else bytes(body)


def problem_with(message: Any) -> str:
    """Return why a message is not looked at, whoever signed it; "" when it is."""
    if message.errors:
        return "it cannot be decoded"
    if message.compression is not None:
        return "it is compressed"
    if message.content_type != CONTENT_TYPE:
        return f"its content type is not {CONTENT_TYPE}"
    if len(body_of(message)) > MAX_BODY:
        return f"it has more than {MAX_BODY:,} bytes"
    return ""


def kept_copy(body: bytes, reason: str, headers: Mapping[str, object]) -> tuple[bytes, dict[str, object]]:
    """Return body and headers of a dead letter: a bounded copy. A whole one keeps what it needs to be put back."""
    said: dict[str, object] = {REASON_HEADER: reason[:REASON_LIMIT]}
    if len(body) > COPY_LIMIT:
        digest = hashlib.sha256(body).hexdigest()
        return body[:COPY_LIMIT], said | {SIZE_HEADER: len(body), DIGEST_HEADER: digest}
    own = {name: headers[name] for name in (VERSION_HEADER, SIGNATURE_HEADER) if name in headers}
    return body, said | own
