"""Alembic's environment: the mechanism is servicekit's, the schema is ours."""

from runs_service.models import metadata
from servicekit.postgres.migrations import run_environment

run_environment(metadata)
