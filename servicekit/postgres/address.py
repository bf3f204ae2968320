"""The URL of a database, as libpq's keywords: no URL is written out again, so nothing of it is quoted twice or lost."""

from typing import Any
from urllib.parse import unquote

from sqlalchemy import make_url


def keywords(url: str, *, options: str = "") -> dict[str, Any]:
    """Return what psycopg.connect takes for `url`. `options` for the server come after those of the URL."""
    parsed = make_url(url)
    given = {
        "host": unquote(parsed.host or ""),
        "port": parsed.port,
        "user": parsed.username,
        "password": parsed.password,
        "dbname": parsed.database,
    }
    found: dict[str, Any] = {name: value for name, value in given.items() if value}
    found |= {name: ",".join(value) if isinstance(value, tuple) else value for name, value in parsed.query.items()}
    hosts = [host.partition(":") for host in str(found["host"] if "host" in parsed.query else "").split(",")]
    if any(port.isdecimal() for _, _, port in hosts):  # SQLAlchemy's way to name several: host=a:5432&host=b:5433
        found["host"] = ",".join(host for host, _, _ in hosts)
        found["port"] = ",".join(port or "5432" for _, _, port in hosts)
    if options:
        found["options"] = f"{found.get('options', '')} {options}".strip()
    return found


def password(url: str) -> str:
    """Return the password of `url`, "" when it has none."""
    return str(keywords(url).get("password", ""))
