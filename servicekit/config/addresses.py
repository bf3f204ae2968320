"""Validators of addresses and URLs: each returns the value, or raises ValueError with what is allowed.

No message quotes a URL or a parser's message: in a malformed URL the password may be anywhere.
"""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator

# A name, an IPv6 address, or the folder of a socket.
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%\w+)?|[/@][^@]*")
_CHOICES: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}
DATABASE_FORM = "postgresql://user:password@host:5432/database"


def address(value: str) -> str:
    """Check HOST:PORT."""
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        # A URL in the wrong variable may have a password.
        instead = "a URL" if "://" in value or "@" in value else repr(value)
        raise ValueError(f"expected HOST:PORT, for instance 127.0.0.1:50051, and not {instead}")
    return value


def database_url(value: str) -> str:
    """Check the URL of a PostgreSQL database."""
    if not value.startswith(("postgresql://", "postgresql+psycopg://", "postgres://")):
        raise ValueError(f"expected a URL like {DATABASE_FORM}")
    value = value.replace("postgres://", "postgresql://", 1)
    from servicekit.postgres.address import keywords

    try:
        found = keywords(value)
        is_good = _is_readable(value, found)
    except ValueError:
        is_good = False
    if not is_good:
        raise ValueError(
            f"cannot be read; expected a URL like {DATABASE_FORM}, with a number for its port, and what is special in "
            "the password percent-encoded"
        )
    # Without one, libpq would take the user's name or PGDATABASE.
    if not (found.get("dbname") or found.get("service")):
        raise ValueError(f"names no database; expected a URL like {DATABASE_FORM}")
    _require_parameters(found)
    return value


def _is_readable(value: str, found: Mapping[str, Any]) -> bool:
    """Tell whether all that was found in the URL stands where it belongs.

    A second @ is one of the password's, or of a user's name, and what follows it was taken for the host.
    """
    ports = [port for port in str(found.get("port", "")).split(",") if port]
    hosts = [host for host in str(found.get("host", "")).split(",") if host]
    return (
        value.count("@") <= 1
        and "#" not in value.rpartition("@")[2]
        and all(0 < int(port) <= 65535 for port in ports)
        and all(_HOST.fullmatch(host) for host in hosts)
    )


def _require_parameters(found: Mapping[str, Any]) -> None:
    """Raise ValueError for what libpq would refuse at every connection, without a word of the URL itself."""
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    if unknown := [name for name in found if name not in known]:
        alike = {near for name in unknown for near in get_close_matches(name, known, 1)}
        hint = f" (is {' and '.join(sorted(alike))} meant?)" if alike else ""
        raise ValueError(f"has a parameter after the ? that PostgreSQL's client does not know{hint}")
    for name in ("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"):
        if name in found and not str(found[name]).lstrip("-").isdecimal():
            raise ValueError(f"its parameter {name} must be a whole number")
    for name, words in _CHOICES.items():
        if name in found and found[name] not in words:
            raise ValueError(f"its parameter {name} must be one of {', '.join(words)}")
    for name in ("sslrootcert", "sslcert", "sslkey"):
        if name in found and found[name] != "system" and not Path(found[name]).is_file():
            raise ValueError(f"its parameter {name} names no file that can be read")


def broker_url(value: str) -> str:
    """Check the URL of a broker, or of several separated by `;`."""
    import kombu

    from servicekit.broker.address import FORM, BrokerAddress

    address = BrokerAddress.parse(value)
    try:
        kombu.Connection(address.urls)  # parses the URL, and does not connect
    except (ImportError, NameError):  # some of Kombu's transports fail only here
        raise ValueError(f"{address.scheme}:// needs a package of Kombu's that is not installed") from None
    except Exception:
        raise ValueError(
            f"cannot be read; expected a Kombu URL like {FORM}, with a number for its port, and what is "
            "special in the password percent-encoded"
        ) from None
    return value


Address = Annotated[str, AfterValidator(address)]
DatabaseUrl = Annotated[str, AfterValidator(database_url)]
BrokerUrl = Annotated[str, AfterValidator(broker_url)]
