"""The URL of a database, as libpq's keywords: no URL is written out again, so nothing of it is quoted twice or lost.

URLs are read as SQLAlchemy reads them, which takes what libpq refuses (a blank in a password, `+psycopg`), without
importing it: that takes a quarter of a service's start.
"""

import re
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

_URL: Final = re.compile(
    r"""
    [\w+]+://
    (?: (?P<user> [^:/]* ) (?: : (?P<password> [^@]* ) )? @ )?
    (?: \[ (?P<ipv6> [^/?]+ ) \] | (?P<host> [^/:?]+ ) )?
    (?: : (?P<port> [^/?]* ) )?
    (?: / (?P<dbname> [^?]* ) )?
    (?: \? (?P<query> .* ) )?
    """,
    re.VERBOSE,
)


def keywords(url: str, *, options: str = "") -> dict[str, Any]:
    """Return what psycopg.connect takes for `url`. `options` for the server come after those of the URL.

    Raises ValueError when `url` is none, or its port no number.
    """
    parsed = _URL.match(url)
    if not parsed:
        raise ValueError("this is no URL")  # without it: the password may be anywhere
    given = {
        "host": unquote(parsed["ipv6"] or parsed["host"] or ""),
        "port": None if parsed["port"] is None else int(parsed["port"]),
        "user": unquote(parsed["user"] or ""),
        "password": unquote(parsed["password"] or ""),
        "dbname": unquote(parsed["dbname"] or ""),
    }
    found: dict[str, Any] = {name: value for name, value in given.items() if value}
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(parsed["query"] or ""):
        query.setdefault(name, []).append(value)
    found |= {name: ",".join(values) for name, values in query.items()}
    hosts = [host.partition(":") for host in ",".join(query.get("host", [])).split(",")]
    if any(port.isdecimal() for _, _, port in hosts):  # SQLAlchemy's way to name several: host=a:5432&host=b:5433
        found["host"] = ",".join(host for host, _, _ in hosts)
        found["port"] = ",".join(port or "5432" for _, _, port in hosts)
    if options:
        found["options"] = f"{found.get('options', '')} {options}".strip()
    return found


def password(url: str) -> str:
    """Return the password of `url`, "" when it has none."""
    return str(keywords(url).get("password", ""))
