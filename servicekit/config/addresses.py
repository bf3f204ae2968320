"""Validators of addresses and URLs: each returns the value, or raises ValueError with what is allowed.

No message quotes a URL or a parser's message: in a malformed URL the password may be anywhere.
"""

from typing import Annotated

from pydantic import AfterValidator

DATABASE_FORM = "postgresql://user:password@host:5432/database"


def address(value: str) -> str:
    """Check HOST:PORT."""
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"expected HOST:PORT, for instance 127.0.0.1:50051, and not {value!r}")
    return value


def database_url(value: str) -> str:
    """Check the URL of a PostgreSQL database."""
    if not value.startswith(("postgresql://", "postgresql+psycopg://", "postgres://")):
        raise ValueError(f"expected a URL like {DATABASE_FORM}")
    from sqlalchemy import exc, make_url

    try:
        url = make_url(value)
        ports = [url.port, *_query_values(url.query.get("port"))]
        if not all(0 < int(port) <= 65535 for port in ports if port is not None):
            raise ValueError
    except (ValueError, exc.ArgumentError):
        raise ValueError(
            f"cannot be read; expected a URL like {DATABASE_FORM}, with a number for its port, and what is special in "
            "the password percent-encoded"
        ) from None
    # Without one, libpq would take the user's name or PGDATABASE.
    if not (url.database or url.query.get("dbname") or url.query.get("service")):
        raise ValueError(f"names no database; expected a URL like {DATABASE_FORM}")
    return value.replace("postgres://", "postgresql://", 1)


def _query_values(value: str | tuple[str, ...] | None) -> list[str]:
    together = value if isinstance(value, tuple) else (value or "",)
    return [port for ports in together for port in ports.split(",") if port]


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
