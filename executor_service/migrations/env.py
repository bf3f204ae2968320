"""Alembic's environment: servicekit's mechanism over the executor's schema."""

from executor_service.models import metadata
from servicekit.postgres.migrations import run_environment

run_environment(metadata)
