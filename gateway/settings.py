"""The settings of the gateway."""

import re

from pydantic import AliasChoices, Field, field_validator

from servicekit.config.addresses import Address
from servicekit.config.settings import ListenerSettings

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?|\*")


class GatewaySettings(ListenerSettings):
    """Environment variables of the gateway, beside those that everything that listens reads. None is a secret."""

    listen: Address = Field(default="127.0.0.1:8080", validation_alias=AliasChoices("GATEWAY_LISTEN"))
    """Where requests are accepted."""
    processes: int = Field(default=1, ge=1, le=64, validation_alias=AliasChoices("GATEWAY_WORKERS"))
    """Processes at that address, for machines with more cores."""
    runs_target: Address = "127.0.0.1:50051"
    """runs-service: an address, or several as `ipv4:host:port,host:port`."""
    executor_target: Address = "127.0.0.1:50052"
    """The executor: an address, or several as `ipv4:host:port,host:port`."""

    gateway_cors_origins: str = ""
    """Origins whose pages may call, separated by commas; `*`: all. Unset: none but the gateway's own."""
    gateway_routes_at_root: bool = False
    """`true`: the routes are at / as well as at /api, as some older clients have them."""
    # The largest CreateRun has 95 kB, of which JSON may make three times as many.
    gateway_max_body_bytes: int = Field(default=512 * 1024, ge=1_024, le=64 * 1024 * 1024)
    """The size of the largest body."""
    max_receive_seconds: float = Field(default=10.0, gt=0, le=600)
    """In which a request must have arrived; over HTTP its headers, and then its body."""
    # Previews and applies wait for their run. Proxies wait for 60 s.
    gateway_call_seconds: float = Field(default=55.0, gt=0, le=3600)
    """The deadline of a call to a service; previews and applies wait for their run that long."""
    trace_url: str | None = Field(default=None, max_length=500, pattern=r"^https?://[^\s\"<>]*\{trace_id\}[^\s\"<>]*$")
    """Where a run's page links to for its trace, with `{trace_id}` in it; unset: the page shows the id alone."""

    @field_validator("gateway_cors_origins")
    @classmethod
    def _origins_are_good(cls, value: str) -> str:
        for origin in _split(value):
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"expected origins as browsers send them, separated by commas, for instance "
                    f"https://shop.example,http://localhost:3000, and not {origin!r}"
                )
        return value

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may call; `*`: all."""
        return _split(self.gateway_cors_origins)


def _split(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())
