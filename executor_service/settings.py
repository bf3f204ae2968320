"""The settings of executor_service."""

from datetime import timedelta
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator

from executor_service.ai.prices import read_prices
from executor_service.playbooks.quota import Plan
from servicekit.config.addresses import Address, DatabaseUrl
from servicekit.config.settings import DatabaseSettings, ServiceSettings

LEASE_CONNECTIONS = 4  # every statement over them is short, and most are made for many runs at once


class ExecutorDatabaseSettings(DatabaseSettings):
    """Environment variables of the migration."""

    database_url: DatabaseUrl = Field(validation_alias=AliasChoices("EXECUTOR_DATABASE_URL"))
    """PostgreSQL: `postgresql://user:password@host:5432/database`."""


class ExecutorSettings(ServiceSettings, ExecutorDatabaseSettings):
    """Environment variables of executor_service, beside those every service reads."""

    listen: Address = Field(default="127.0.0.1:50052", validation_alias=AliasChoices("EXECUTOR_LISTEN"))
    """Where calls are accepted."""
    processes: int = Field(default=1, ge=1, le=64, validation_alias=AliasChoices("EXECUTOR_WORKERS"))
    """Processes at that address, for machines with more cores."""
    # The largest product has 300 kB; clients put as many into a PutProducts as fit.
    max_request_bytes: int = Field(default=1024 * 1024, ge=1_024, le=64 * 1024 * 1024)
    """The size of the largest request."""
    # Calls have half as many of their own, and leases LEASE_CONNECTIONS.
    executor_database_pool_size: int = Field(default=10, ge=2, le=100)
    """Connections of a process to PostgreSQL for the work of runs; calls have half as many of their own, leases 4."""

    executor_max_products: int = Field(default=1_000_000, ge=1, le=1_000_000_000)
    """Products of a project, about."""

    executor_concurrency: int = Field(default=16, ge=1, le=1000)
    """Runs at once in a process, and one more for every 16, of projects that have none at work."""
    executor_lease_seconds: float = Field(default=15.0, ge=0.5, le=3600)
    """How long a claim of a run is valid without renewal: a run of an executor that died starts again after it."""
    executor_grace_seconds: float = Field(default=5.0, ge=0, le=600)
    """What running work gets to end at SIGTERM; then its lease is handed back."""

    executor_retention_days: int = Field(default=90, ge=0, le=36_500)
    """Days that executions are kept with their items, suggestions after their last use, drafts after their expiry;
    0: for ever."""

    default_plan: Plan = Plan.FREE
    """The plan of projects that their owners create."""

    ai_provider: Literal["openai", "offline"] | None = None
    """Who writes suggestions; unset: `openai` when OPENAI_API_KEY is set, else `offline`, with a warning."""
    ai_model: str | None = None
    """The model; unset: the provider's default."""
    openai_api_key: SecretStr | None = None
    """The provider's key."""
    openai_base_url: str | None = None
    """Another server that speaks OpenAI's protocol."""
    ai_concurrency: int = Field(default=16, ge=1, le=1000)
    """AI requests at once in a process; those of runs with `meta.economy` have as many places of their own."""
    ai_batch_size: int = Field(default=10, ge=1, le=100)
    """Products in a request."""
    ai_timeout_seconds: float = Field(default=60.0, gt=0, le=600)
    """The time limit of a request."""
    ai_economy_timeout_seconds: float = Field(default=900.0, gt=0, le=3600)
    """The time limit of a request of a run with `meta.economy`."""
    ai_prices: str = ""
    """Dollars for a million tokens by model, as JSON or a file with it, for the metric of costs; unset: none."""

    @field_validator("ai_prices")
    @classmethod
    def _prices_are_good(cls, value: str) -> str:
        if value:
            read_prices(value)
        return value

    @property
    def retention(self) -> timedelta | None:
        """How long what runs left behind is kept; None: for ever."""
        return timedelta(days=self.executor_retention_days) if self.executor_retention_days else None

    @property
    def caller_connections(self) -> int:
        """How many connections serve calls."""
        return max(2, self.executor_database_pool_size // 2)

    @property
    def heavy_reads(self) -> int:
        """How many reads of large projects there may be at once; the other half is for other calls."""
        return self.caller_connections // 2
