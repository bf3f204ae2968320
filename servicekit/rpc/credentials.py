"""The certificates of a process, read again when their files change: many expire sooner than a process does."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import grpc

from servicekit.config.certificates import require_good
from servicekit.config.settings import ListenerSettings

logger = logging.getLogger(__name__)

REREAD_INTERVAL: Final = 1.0  # seconds


class TlsFiles:
    """The PEM files that `settings` name. They need not be replaced all at once: files that do not fit together change
    nothing, and are logged."""

    def __init__(self, settings: ListenerSettings) -> None:
        self._files: Mapping[str, Path] = settings.tls_files
        self._contents = self._read()
        self._looked_at = time.monotonic()
        self._complaint = ""

    def read_again(self) -> bool:
        """Read the files again, at most once a second, and return whether there are other certificates now."""
        now = time.monotonic()
        if now - self._looked_at < REREAD_INTERVAL:
            return False
        self._looked_at = now
        try:
            contents = self._read()
            if contents == self._contents:
                self._complaint = ""
                return False
            require_good(self._files)
            if self._read() != contents:
                return False  # the next time
        except (OSError, ValueError) as error:
            self._complain(str(error))
            return False
        self._contents, self._complaint = contents, ""
        logger.info("certificates were replaced: %s", ", ".join(self._files))
        return True

    def of_server(self) -> grpc.ServerCredentials | None:
        """Return what a server needs for TLS, with what the files have at each handshake; None: it uses none."""
        if "TLS_CERT_FILE" not in self._files:
            return None
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            cast(Any, self._replaced_configuration),  # gRPC's stubs leave out the None of its documentation
            require_client_authentication="TLS_CLIENT_CA_FILE" in self._files,
        )

    def of_channel(self) -> grpc.ChannelCredentials | None:
        """Return what a connection to a service needs for TLS, with what the files have now; None: it uses none."""
        trusted = next(
            (name for name in ("TLS_CA_FILE", "TLS_CLIENT_CA_FILE", "TLS_CERT_FILE") if name in self._files), None
        )
        if trusted is None:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=self._contents[trusted],
            # Sent only when the server asks for it.
            private_key=self._contents.get("TLS_KEY_FILE"),
            certificate_chain=self._contents.get("TLS_CERT_FILE"),
        )

    def _replaced_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        return self._server_configuration() if self.read_again() else None

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self._contents["TLS_KEY_FILE"], self._contents["TLS_CERT_FILE"])],
            root_certificates=self._contents.get("TLS_CLIENT_CA_FILE"),
        )

    def _read(self) -> dict[str, bytes]:
        return {name: file.read_bytes() for name, file in self._files.items()}

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("%s; the certificates that were there before go on being used", complaint)
