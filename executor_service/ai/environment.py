"""The environment variables that the HTTP client of the AI provider reads by itself: proxies and certificates.

What is wrong with one of them would end in a traceback that names none. No message quotes a value: a proxy's URL may
have a password.
"""

import os
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from servicekit.config.certificates import named, require_certificates

PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
SCHEMES: Final = ("http", "https", "socks5", "socks5h")
VARIABLES: Final = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR, SSLKEYLOGFILE"


def require_usable_environment() -> None:
    """Raise ValueError, naming the variable, unless the HTTP client can work with the environment."""
    for name in (*(name.lower() for name in PROXIES), *PROXIES):
        if value := os.environ.get(name):
            _require_proxy(name, value if "://" in value else f"http://{value}")
    if file := os.environ.get("SSL_CERT_FILE"):
        with named("SSL_CERT_FILE", Path(file)):
            require_certificates(Path(file))
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not any(Path(one).is_dir() for one in folder.split(os.pathsep)):
        raise ValueError("SSL_CERT_DIR: there is no such folder")


def _require_proxy(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ValueError(
            f"{name}: expected HOST:PORT or a URL that begins with {', '.join(SCHEMES[:-1])}:// or socks5h://"
        )
