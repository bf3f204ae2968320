"""The settings of runs_service."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import AliasChoices, Field

from servicekit.config.addresses import Address, DatabaseUrl
from servicekit.config.settings import DatabaseSettings, ServiceSettings

# Days that ended runs are kept; 0: for ever.
Days = Annotated[int, Field(ge=0, le=36_500)]


class RunsDatabaseSettings(DatabaseSettings):
    """Environment variables of the migration."""

    database_url: DatabaseUrl = Field(validation_alias=AliasChoices("RUNS_DATABASE_URL"))
    """PostgreSQL: `postgresql://user:password@host:5432/database`."""


class RunsSettings(ServiceSettings, RunsDatabaseSettings):
    """Environment variables of runs_service, beside those every service reads."""

    listen_database_url: DatabaseUrl | None = Field(
        default=None, validation_alias=AliasChoices("RUNS_LISTEN_DATABASE_URL")
    )
    """Where LISTEN goes when RUNS_DATABASE_URL leads through a pooler, which passes no notification on."""
    listen: Address = Field(default="127.0.0.1:50051", validation_alias=AliasChoices("RUNS_LISTEN"))
    """Where calls are accepted."""
    processes: int = Field(default=1, ge=1, le=64, validation_alias=AliasChoices("RUNS_WORKERS"))
    """Processes at that address, for machines with more cores."""
    # The largest CreateRun, with 100 forbidden phrases of 200 characters of 4 bytes, has 95 kB.
    max_request_bytes: int = Field(default=128 * 1024, ge=1_024, le=64 * 1024 * 1024)
    """The size of the largest request."""
    executor_target: Address = "127.0.0.1:50052"
    """The executor: an address, or several as `ipv4:host:port,host:port`."""

    runs_inline_fallback: bool = False
    """`true`: a configured broker that is down also means inline. `false`: runs wait QUEUED for its return."""
    runs_reconcile_seconds: float = Field(default=5.0, gt=0, le=3600)
    """Silence after which the executor is asked about a run."""
    runs_max_creates_per_second: float = Field(default=200.0, gt=0, le=1_000_000)
    """Runs that a project may create in a second at a process, for seconds on end."""
    runs_max_queued: int = Field(default=10_000, ge=1, le=10_000_000)
    """Runs of a project that may wait for an executor, about."""
    runs_database_pool_size: int = Field(default=8, ge=2, le=100)
    """Connections of a process to PostgreSQL."""

    runs_retention_days: Days = 90
    """Days that ended runs are kept after their creation; 0: for ever."""
    runs_retention_days_succeeded: Days | None = None
    """The same for SUCCEEDED runs, where it differs."""
    runs_retention_days_failed: Days | None = None
    """The same for FAILED runs, where it differs."""
    runs_retention_days_stale: Days | None = None
    """The same for STALE runs, where it differs."""
    runs_retention_days_cancelled: Days | None = None
    """The same for CANCELLED runs, where it differs."""

    @property
    def retention(self) -> Mapping[str, timedelta]:
        """How long runs are kept after their creation, by status; without those that are kept for ever."""
        stated = {
            "SUCCEEDED": self.runs_retention_days_succeeded,
            "FAILED": self.runs_retention_days_failed,
            "STALE": self.runs_retention_days_stale,
            "CANCELLED": self.runs_retention_days_cancelled,
        }
        days = {status: self.runs_retention_days if own is None else own for status, own in stated.items()}
        return {status: timedelta(days=number) for status, number in days.items() if number}
