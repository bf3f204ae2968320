"""Checks of the PEM files for TLS: with a bad one gRPC reports nothing, or that the port is taken."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from servicekit.telemetry.printable import printable


def require_good(files: Mapping[str, Path]) -> None:
    """Raise ValueError unless all `files`, by the names of their variables, are good, and the key fits its
    certificate."""
    for name, file in files.items():
        with named(name, file):
            if name == "TLS_KEY_FILE" and (certificate := files.get("TLS_CERT_FILE")):
                require_key(file, certificate)
            else:
                require_certificates(file)


@contextmanager
def named(name: str, file: Path) -> Iterator[None]:
    """Check `file` in the block. Raises ValueError with the `name` of its option or variable when the file is bad."""
    try:
        file.open("rb").close()
        yield
    except OSError as error:
        raise ValueError(f"{name}: {unreadable(file, error)}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def unreadable(file: Path, error: OSError) -> str:
    """Return that a file cannot be read, and why. What looks like a URL may have a password, and is not repeated."""
    what = "what should be the path of a file" if "@" in str(file) else printable(str(file))
    return f"{what} cannot be read: {error.strerror}"


def require_certificates(file: Path) -> None:
    """Raise ValueError unless there are certificates in `file`."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise ValueError(f"{file} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def require_key(file: Path, certificate: Path) -> None:
    """Raise ValueError unless the key of the first certificate in `certificate` is in `file`, without a passphrase."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT@SECLEVEL=0")  # whether the key is strong enough is for the peers to decide
    try:
        context.load_cert_chain(certificate, file, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{file} is the key of another certificate than the one in {certificate}") from None
        raise ValueError(
            f"{file} has no private key in PEM form (-----BEGIN PRIVATE KEY-----) without a passphrase"
        ) from None
