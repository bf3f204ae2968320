"""The settings of executor_service."""

from datetime import timedelta
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr

from executor_service.playbooks.quota import Plan
from servicekit.config.addresses import Address, DatabaseUrl
from servicekit.config.settings import DatabaseSettings, ServiceSettings

LEASE_CONNECTIONS = 4  # every statement over them is short, and most are made for many runs at once


class ExecutorDatabaseSettings(DatabaseSettings):
    """Environment variables of the migration."""

    database_url: DatabaseUrl = Field(validation_alias=AliasChoices("EXECUTOR_DATABASE_URL"))


class ExecutorSettings(ServiceSettings, ExecutorDatabaseSettings):
    """Environment variables of executor_service, beside those every service reads."""

    listen: Address = Field(default="127.0.0.1:50052", validation_alias=AliasChoices("EXECUTOR_LISTEN"))
    processes: int = Field(default=1, ge=1, le=64, validation_alias=AliasChoices("EXECUTOR_WORKERS"))
    # The largest product has 300 kB; clients put as many into a PutProducts as fit.
    max_request_bytes: int = Field(default=1024 * 1024, ge=1_024, le=64 * 1024 * 1024)
    # Connections for the work of runs. Calls have half as many of their own, and leases LEASE_CONNECTIONS.
    executor_database_pool_size: int = Field(default=10, ge=2, le=100)

    executor_concurrency: int = Field(default=16, ge=1, le=1000)  # runs at once in this process
    executor_lease_seconds: float = Field(default=15.0, ge=0.5, le=3600)
    # Seconds that running work gets to end at SIGTERM; then its lease is handed back.
    executor_grace_seconds: float = Field(default=5.0, ge=0, le=600)

    # Days that executions are kept with their items, suggestions after their last use, drafts after their expiry;
    # 0: for ever.
    executor_retention_days: int = Field(default=90, ge=0, le=36_500)

    default_plan: Plan = Plan.FREE  # of projects that their owners create

    ai_provider: Literal["openai", "offline"] | None = None
    ai_model: str | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = None
    ai_concurrency: int = Field(default=16, ge=1, le=1000)  # requests at once in this process
    ai_batch_size: int = Field(default=10, ge=1, le=100)  # products a request
    ai_timeout_seconds: float = Field(default=60.0, gt=0, le=600)  # a request

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
