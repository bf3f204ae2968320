"""The gateway's side of TLS, whose certificates can be replaced while it serves."""

import logging
import ssl
from collections.abc import Callable
from typing import Any, Self

from servicekit.rpc.credentials import TlsFiles

logger = logging.getLogger(__name__)


class RenewableContext(ssl.SSLContext):
    """What an event loop makes connections secure with: each new one by the context that `make` made last.

    A context of its own for each change, since no SSLContext forgets an authority, and it resumes sessions of clients
    that it trusted before without looking at their certificates again.
    """

    def __new__(cls, *_: object) -> Self:
        """Return a context that nothing but `wrap_bio` is used of."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)

    def __init__(self, files: TlsFiles, make: Callable[[], ssl.SSLContext]) -> None:
        self._files = files
        self._make = make
        self._newest = make()

    def renew(self) -> None:
        """Have new connections use what the files have now."""
        if not self._files.read_again():
            return
        try:
            self._newest = self._make()
        except OSError as error:  # they were replaced once more: the next change counts
            logger.warning("%s; the certificates that were there before go on being used", error)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a connection: what event loops call for each."""
        return self._newest.wrap_bio(*arguments, **named)
