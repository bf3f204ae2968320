"""The limits of a server, as a test wants them."""

from dataclasses import replace
from typing import Any

from servicekit.rpc.limits import Limits

_SMALL = Limits(
    request_bytes=1_024,
    metadata_bytes=40 * 1_024,
    streams=1_000,
    connections=100,
    connection_age_seconds=3_600,
    connection_grace_seconds=600,
    calls=1_000,
    calls_per_caller=1_000,
    watches=1_000,
    watches_per_caller=1_000,
    receiving_bytes=1_024 * 1_024,
    receive_seconds=10,
)


def limits(**changed: Any) -> Limits:
    """Return limits for small requests and some calls, with these changes."""
    return replace(_SMALL, **changed)
