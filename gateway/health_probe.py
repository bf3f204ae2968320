"""A health check for containers and scripts: `python -m gateway.health_probe http://HOST:PORT`."""

import argparse
import json
import ssl
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

TIMEOUT = 4.0  # seconds


def why_not_ready(url: str, ca_file: Path | None = None) -> str | None:
    """Return why the gateway at `url` does not serve, or a service behind it; None: all do. With HTTPS, `ca_file`
    has the certificates to trust."""
    context = ssl.create_default_context(cafile=ca_file)
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with opener.open(f"{url}/readyz", timeout=TIMEOUT):
            return None
    except HTTPError as error:
        with error:
            return str(json.load(error)["detail"])
    except (OSError, HTTPException, ValueError) as error:
        return f"no answer from {url}: {error}"


def main() -> None:
    """Exit with 0 if it serves, 1 and a line that says why if not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.health_probe",
        description="Exit with 0 if the gateway and both services serve, else with 1 and the reason on standard error.",
    )
    parser.add_argument("url", metavar="http://HOST:PORT")
    parser.add_argument("--ca-file", metavar="PEM", type=Path, help="for https, trust these certificates")
    given = parser.parse_args()
    sys.exit(why_not_ready(given.url, given.ca_file))


if __name__ == "__main__":
    main()
