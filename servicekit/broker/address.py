"""BROKER_URL, taken apart: what Kombu gets of it, and what can never work.

No message quotes a URL or a parser's words: in a malformed URL the password may be anywhere.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

FORM: Final = "redis://host:6379/0 or amqp://user:password@host:5672//"
SENTINEL_FORM: Final = "sentinel://host:26379/0?master_name=NAME"

_REDIS: Final = ("redis", "rediss", "sentinel")
_AMQP: Final = ("amqp", "amqps", "pyamqp")
_HOPELESS: Final = {
    "memory": "is within one process, and runs-service and executor-service are two",
    "filesystem": "needs a folder that both services share, and loses and repeats messages",
}
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS: Final = (*_TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL: Final = ("master_name", "sentinel_username", "sentinel_password")
_OF_AMQP: Final = ("heartbeat", "login_method")
_VERIFICATION: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


@dataclass(frozen=True)
class BrokerAddress:
    """One broker, or several that stand in for each other."""

    urls: str  # as Kombu takes them
    scheme: str
    passwords: tuple[str, ...] = field(repr=False)
    tls: dict[str, Any] | None = None  # what Kombu takes as `ssl`; the server's certificate is verified by default
    options: dict[str, Any] = field(default_factory=dict, repr=False)  # Kombu's transport options

    @property
    def is_amqp(self) -> bool:
        """Whether it is RabbitMQ."""
        return self.scheme in _AMQP

    @classmethod
    def parse(cls, url: str) -> "BrokerAddress":
        """Take BROKER_URL apart. Raises ValueError with what is wrong."""
        from kombu.transport import TRANSPORT_ALIASES

        parts = url.split(";")
        schemes = {part.partition("://")[0].lower() if "://" in part else "" for part in parts}
        scheme = min(schemes)
        if any(one.partition("+")[0] not in {name.lower() for name in TRANSPORT_ALIASES} for one in schemes):
            raise ValueError(f"expected a Kombu URL like {FORM}")
        if scheme in _HOPELESS:
            raise ValueError(f"{scheme}:// {_HOPELESS[scheme]}; expected a URL like {FORM}")
        if len(schemes) > 1 and (schemes & {*_REDIS}):
            raise ValueError("several brokers separated by ; are of one kind")
        if scheme not in (*_REDIS, *_AMQP):
            return cls(url, scheme, passwords=())
        try:
            return cls._of_known(parts, scheme)
        except UnicodeError:
            raise ValueError(_unreadable()) from None

    @classmethod
    def _of_known(cls, parts: list[str], scheme: str) -> "BrokerAddress":
        bases: list[str] = []
        query: dict[str, str] = {}
        passwords: list[str] = []
        for part in parts:
            base, _, given = part.partition("?")
            query |= dict(parse_qsl(given, keep_blank_values=True))
            _require_readable(base, given)
            parsed = urlsplit(base)
            passwords += [secret for secret in (unquote(parsed.password or ""), parsed.password) if secret]
            database = unquote(parsed.path).removeprefix("/")
            if scheme in _REDIS and not (database.isdecimal() or not database):
                raise ValueError(f"Redis' databases are numbers; expected a URL like {FORM}")
            bases.append(base)
        _require_known(query, scheme)
        options: dict[str, Any] = {}
        if scheme == "sentinel":
            bases = _alike(bases)
            options = _sentinel(query)
            passwords += filter(None, [query.get("sentinel_password")])
        kept = "&".join(f"{name}={query[name]}" for name in _OF_AMQP if name in query)
        urls = ";".join(f"{base}?{kept}" if kept else base for base in bases)
        return cls(urls, scheme, tuple(passwords), _tls(query, scheme), options)


def _unreadable() -> str:
    return (
        f"cannot be read; expected a Kombu URL like {FORM}, with a number for its port, and what is special in the "
        "password percent-encoded"
    )


def _require_readable(base: str, query: str) -> None:
    try:
        parsed = urlsplit(base)
        is_good = parsed.port is None or parsed.port > 0
    except ValueError:
        is_good = False
    # Behind an unencoded / # or ? of the password, the rest of the user's part shows by its @.
    if not is_good or "#" in base or "@" in parsed.path + query:
        raise ValueError(_unreadable())


def _require_known(query: dict[str, str], scheme: str) -> None:
    known = [*_TLS, *(_SENTINEL if scheme == "sentinel" else _OF_AMQP if scheme in _AMQP else ())]
    if query.keys() - {*known}:
        raise ValueError(f"has a parameter after the ? that is not known; those of {scheme}:// are {', '.join(known)}")
    for name in _TLS_FILES:
        if name in query and not Path(query[name]).is_file():
            raise ValueError(f"{name} is no file that can be read")
    if query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_") not in _VERIFICATION:
        raise ValueError(f"ssl_cert_reqs is one of {', '.join(_VERIFICATION)}")


def _alike(bases: list[str]) -> list[str]:
    """Return the addresses of sentinels, each with the user, password and database that one of them has."""
    parsed = [urlsplit(base) for base in bases]
    user = next((one.netloc.rpartition("@")[0] for one in parsed if "@" in one.netloc), "")
    database = next((one.path for one in parsed if one.path.strip("/")), "/0")
    hosts = [one.netloc.rpartition("@")[2] for one in parsed]
    return [f"sentinel://{user}@{host}{database}" if user else f"sentinel://{host}{database}" for host in hosts]


def _sentinel(query: dict[str, str]) -> dict[str, Any]:
    if not query.get("master_name"):
        raise ValueError(f"names no master; expected a URL like {SENTINEL_FORM}")
    of_sentinels = {name.removeprefix("sentinel_"): query[name] for name in _SENTINEL[1:] if name in query}
    return {"master_name": query["master_name"], "sentinel_kwargs": of_sentinels or None}


def _tls(query: dict[str, str], scheme: str) -> dict[str, Any] | None:
    given = {name: query[name] for name in _TLS if name in query}
    if scheme not in ("rediss", "amqps") and not given:
        return None
    reqs = _VERIFICATION[given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")]
    checks_name = reqs != ssl.CERT_NONE and given.get("ssl_check_hostname", "true").lower() != "false"
    files: dict[str, Any] = {name: given[name] for name in _TLS_FILES if name in given}
    if scheme in _REDIS:
        return {"ssl_cert_reqs": reqs, "ssl_check_hostname": checks_name, **files}
    of_amqp: dict[str, Any] = {name.removeprefix("ssl_"): value for name, value in files.items()}
    if checks_name:
        of_amqp["server_hostname"] = None  # Kombu takes the URL's
    return {**of_amqp, "cert_reqs": reqs}
