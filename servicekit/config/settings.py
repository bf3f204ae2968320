"""The settings that both services have: environment variables, read once into a frozen, validated object."""

import sys
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from servicekit.auth.keys import load_public_keys, secrets_in
from servicekit.auth.tokens import MAX_LIFETIME, SERVICE_TOKEN_LIFETIME, Demands
from servicekit.config.addresses import Address, BrokerUrl, DatabaseUrl
from servicekit.config.certificates import named, require_good
from servicekit.config.problems import problems
from servicekit.config.tracing import TracingSettings
from servicekit.rpc.limits import Limits
from servicekit.telemetry.printable import printable

Settings = TypeVar("Settings", bound="CommandSettings")


def is_loopback(address: str) -> bool:
    """Tell whether HOST:PORT can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class CommandSettings(BaseSettings):
    """What every command reads, the migration too."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    log_format: Literal["json", "console"] = "json"
    """`json` for a log collector, `console` for a person."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe lines that are logged; the signal SIGUSR1 changes it to DEBUG, and back."""


class DatabaseSettings(CommandSettings):
    """What a migration needs. A subclass has the variable of `database_url`."""

    database_url: DatabaseUrl


class ListenerSettings(CommandSettings, TracingSettings):
    """What everything that listens reads. A subclass adds its own, and the variables of `listen` and `processes`."""

    listen: Address
    processes: int  # at that address

    tls_cert_file: Path | None = None
    """The certificate (PEM) to serve TLS with."""
    tls_key_file: Path | None = None
    """Its private key (PEM)."""
    tls_client_ca_file: Path | None = None
    """CA certificates (PEM) that client certificates must be signed by; set: mutual TLS."""
    tls_ca_file: Path | None = None
    """CA certificates for calls to the other service; unset: TLS_CLIENT_CA_FILE, else our own certificate."""

    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Connections at once."""
    metrics_listen: Address | None = None
    """Where Prometheus metrics are served over HTTP; unset: nowhere. Each further process takes the next port."""

    @model_validator(mode="after")
    def _can_listen(self) -> Self:
        if self.processes > 1 and self.listen.endswith(":0"):
            raise ValueError(f"several processes need one port to share, and {self.listen} gives each its own")
        if bool(self.tls_cert_file) != bool(self.tls_key_file):
            raise ValueError("TLS_CERT_FILE and TLS_KEY_FILE go together: set both, or none")
        if self.tls_client_ca_file and not self.tls_cert_file:
            raise ValueError("TLS_CLIENT_CA_FILE needs TLS_CERT_FILE and TLS_KEY_FILE")
        return self

    @model_validator(mode="after")
    def _certificates_are_good(self) -> Self:
        require_good(self.tls_files)
        return self

    @property
    def tls_files(self) -> dict[str, Path]:
        """The files for TLS that are set, by the names of their variables."""
        names = ("tls_cert_file", "tls_key_file", "tls_client_ca_file", "tls_ca_file")
        return {name.upper(): file for name in names if (file := getattr(self, name))}

    @property
    def listen_variable(self) -> str:
        """The name of the environment variable that `listen` comes from."""
        alias = type(self).model_fields["listen"].validation_alias
        return str(alias.choices[0]) if isinstance(alias, AliasChoices) else "LISTEN"

    def for_process(self, number: int) -> Self:
        """Return the settings of one of the processes: each serves its metrics at a port of its own."""
        if self.metrics_listen is None or number == 0:
            return self
        host, _, port = self.metrics_listen.rpartition(":")
        return self.model_copy(update={"metrics_listen": f"{host}:{int(port) + number}"})


class ServiceSettings(ListenerSettings):
    """What every gRPC service reads beside those."""

    broker_url: BrokerUrl | None = None
    """Any Kombu URL: `redis://`, `rediss://`, `amqp://`, `amqps://`; unset: runs execute inline."""
    broker_queue_prefix: str = Field(default="playbook-runs", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """The prefix of all names at the broker: the same in both services, another in each stack that shares a broker."""
    enable_queue_processors: bool = True
    """`false`: runs execute inline, and the executor consumes nothing."""

    auth_mode: Literal["jwt", "disabled"] = "jwt"
    """`disabled` is accepted only with loopback listeners."""
    auth_jwt_secret: SecretStr | None = None
    """The HS256 secret, 32 characters or more; several, separated by commas: the first one signs, each verifies."""
    auth_jwt_public_key_file: Path | None = None
    """A PEM or JWKS file with the keys of users' tokens (RS256, ES256, EdDSA). It is read again when it changes."""
    auth_jwt_audience: str | None = None
    """The audience (`aud`) that tokens must have; unset: any."""
    auth_jwt_issuer: str | None = None
    """The issuer (`iss`) that tokens must have; unset: any."""
    # With less than the lifetime of their own tokens, the services would refuse each other.
    auth_jwt_max_lifetime_seconds: int = Field(
        default=int(MAX_LIFETIME.total_seconds()), ge=int(SERVICE_TOKEN_LIFETIME.total_seconds()), le=100 * 365 * 86_400
    )
    """The longest lifetime of a token."""

    # A service sets the size of its largest valid request.
    max_request_bytes: int = Field(ge=1_024, le=64 * 1024 * 1024)
    """The size of the largest request."""
    max_receiving_bytes: int = Field(default=64 * 1024 * 1024, ge=1_024)
    """What all requests that are being received or served may hold together."""
    max_receive_seconds: float = Field(default=10.0, gt=0, le=600)
    """In which a request must have arrived; over HTTP its headers, and then its body."""
    max_metadata_bytes: int = Field(default=40 * 1024, ge=8 * 1024, le=1024 * 1024)
    """The size of a call's metadata; a token may have 32 kB."""
    max_streams_per_connection: int = Field(default=1_000, ge=1, le=1_000_000)
    """Calls at once on one connection."""
    max_connection_age_seconds: float = Field(default=3_600.0, ge=1, le=30 * 86_400)
    """After which a connection gets no new calls, give or take a tenth: clients find replicas that were added."""
    max_connection_grace_seconds: float = Field(default=600.0, ge=0, le=86_400)
    """How long calls on such a connection may go on."""
    max_calls: int = Field(default=10_000, ge=2, le=1_000_000)
    """Calls at once, streams included."""
    max_calls_per_caller: int = Field(default=5_000, ge=1, le=1_000_000)
    """Calls at once of one caller; half of MAX_CALLS if that is less."""
    max_watches: int = Field(default=8_000, ge=2, le=1_000_000)
    """Streams of answers at once."""
    max_watches_per_caller: int = Field(default=4_000, ge=1, le=1_000_000)
    """Streams of answers at once of one caller; half of MAX_WATCHES if that is less."""

    reflection: bool = True
    """Whether gRPC reflection describes the services to anyone who asks."""

    @field_validator("auth_jwt_secret")
    @classmethod
    def _secrets_are_good(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            secrets_in(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _authenticates(self) -> Self:
        if self.auth_mode == "disabled" and not is_loopback(self.listen):
            raise ValueError(
                f"AUTH_MODE=disabled is accepted only with a loopback listener, and {self.listen} is none; "
                "set AUTH_MODE=jwt, or listen on 127.0.0.1"
            )
        if self.auth_mode == "jwt" and self.auth_jwt_secret is None:
            raise ValueError(
                "AUTH_MODE=jwt needs AUTH_JWT_SECRET (32 characters or more): the services' own tokens are signed "
                "with it, and the users' too unless AUTH_JWT_PUBLIC_KEY_FILE is set"
            )
        if file := self.auth_jwt_public_key_file:
            with named("AUTH_JWT_PUBLIC_KEY_FILE", file):
                load_public_keys(file)
        return self

    @property
    def limits(self) -> Limits:
        """The limits on what callers can make a process hold."""
        return Limits(
            request_bytes=self.max_request_bytes,
            metadata_bytes=self.max_metadata_bytes,
            receiving_bytes=self.max_receiving_bytes,
            receive_seconds=self.max_receive_seconds,
            streams=self.max_streams_per_connection,
            connections=self.max_connections,
            connection_age_seconds=self.max_connection_age_seconds,
            connection_grace_seconds=self.max_connection_grace_seconds,
            calls=self.max_calls,
            calls_per_caller=self.max_calls_per_caller,
            watches=self.max_watches,
            watches_per_caller=self.max_watches_per_caller,
        )

    @property
    def jwt_secrets(self) -> tuple[str, ...]:
        """The secrets in AUTH_JWT_SECRET, separated by commas: the first one signs, each verifies. Empty: none."""
        return secrets_in(self.auth_jwt_secret.get_secret_value()) if self.auth_jwt_secret else ()

    @property
    def token_demands(self) -> Demands:
        """The claims that tokens must have."""
        longest = timedelta(seconds=self.auth_jwt_max_lifetime_seconds)
        return Demands(self.auth_jwt_audience, self.auth_jwt_issuer, longest)

    @property
    def queue_url(self) -> str | None:
        """The broker to use, or None when runs execute inline."""
        return self.broker_url if self.enable_queue_processors else None

    def queue(self, name: str) -> str:
        """Return the name of the queue `name` at the broker."""
        return f"{self.broker_queue_prefix}.{name}"


def load(kind: type[Settings]) -> Settings:
    """Read the settings from the environment. Raises SystemExit for a bad value, after printing its name and what is
    allowed."""
    try:
        return kind()
    except ValidationError as error:
        for name, message in problems(error):
            print(printable(f"{name}: {message}" if name else message), file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
