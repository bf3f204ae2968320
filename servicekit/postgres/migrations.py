"""Alembic for a service that owns one schema: upgrade under an advisory lock, from many at once."""

import hashlib
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, create_engine, make_url, pool, text
from sqlalchemy.exc import OperationalError

from servicekit.postgres.pool import CONNECT_TIMEOUT


def config(url: str, scripts: Path) -> Any:
    """Return the Alembic configuration for the migration `scripts` of the database at `url`."""
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(scripts))
    configuration.attributes["url"] = url
    return configuration


def upgrade(url: str, scripts: Path) -> None:
    """Bring the schema up to date. Many may call it at once: one does the work, the others wait for it."""
    from alembic import command

    command.upgrade(config(url, scripts), "head")


def upgrade_or_exit(url: str, scripts: Path, *, variable: str) -> None:
    """`upgrade` as a command. Raises SystemExit, naming the `variable` the URL is from, when there is no database."""
    try:
        upgrade(url, scripts)
    except OperationalError as error:
        what = " ".join(str(error.orig).split())
        if password := make_url(url).password:
            what = what.replace(str(password), "***")
        raise SystemExit(f"{variable}: the database cannot be brought up to date: {what}") from None


def run_environment(metadata: MetaData) -> None:
    """Be the body of a service's migrations/env.py: run the pending scripts in one locked transaction."""
    from alembic import context

    schema = metadata.schema
    assert schema, "the service's metadata names its schema"
    engine = create_engine(
        make_url(context.config.attributes["url"]).set(drivername="postgresql+psycopg"),
        poolclass=pool.NullPool,
        connect_args={"connect_timeout": CONNECT_TIMEOUT},
    )
    with engine.begin() as connection:
        # Held until the transaction ends; a second migrator waits here and then finds nothing to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(schema)})
        exists = connection.scalar(text("SELECT to_regnamespace(:schema)"), {"schema": schema})
        if exists is None:
            connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table_schema=schema,
            include_schemas=True,
            include_name=lambda name, kind, _parents: kind != "schema" or name == schema,
        )
        context.run_migrations()
    engine.dispose()


def _lock_key(schema: str) -> int:
    digest = hashlib.sha256(f"playbook-runs migrate {schema}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
