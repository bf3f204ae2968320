"""Alembic for a service that owns one schema: upgrade under an advisory lock, from many at once."""

import hashlib
import time
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, pool, text
from sqlalchemy.exc import OperationalError, ProgrammingError

from servicekit.postgres.address import keywords, password
from servicekit.postgres.pool import CONNECT_TIMEOUT
from servicekit.postgres.revisions import COMPATIBLE_FROM, serves
from servicekit.postgres.xid8 import Xid8
from servicekit.telemetry.outages import first_line

REPORT = "report"  # the attribute of Alembic's configuration that says what was done
POLL_INTERVAL = 0.2  # seconds between two tries to have our turn


def config(url: str, scripts: Path) -> Any:
    """Return the Alembic configuration for the migration `scripts` of the database at `url`."""
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(scripts))
    configuration.attributes["url"] = url
    return configuration


def upgrade(url: str, scripts: Path) -> str:
    """Bring the schema up to date; return what was done. Many may call it at once: one does the work, the others wait
    for it."""
    from alembic import command

    configuration = config(url, scripts)
    command.upgrade(configuration, "head")
    return str(configuration.attributes[REPORT])


def upgrade_or_exit(url: str, scripts: Path, *, variable: str) -> str:
    """`upgrade` as a command. Raises SystemExit, naming the `variable` the URL is from, when that is impossible."""
    from alembic.util.exc import CommandError

    try:
        return upgrade(url, scripts)
    except (OperationalError, ProgrammingError, psycopg.Error) as error:  # the last one of an index
        what = first_line(getattr(error, "orig", None) or error, password(url))
        raise SystemExit(f"{variable}: the database cannot be brought up to date: {what}") from None
    except CommandError as error:
        what = first_line(error)
        raise SystemExit(
            f"{variable}: the schema there is of a newer release than this one; use that release's migrate: {what}"
        ) from None


def run_environment(metadata: MetaData) -> None:
    """Be the body of a service's migrations/env.py: run the pending scripts, each in a transaction, in our turn."""
    from alembic import context

    schema = metadata.schema
    assert schema, "the service's metadata names its schema"
    engine = _engine(context.config.attributes["url"])
    with engine.connect() as turn, engine.connect() as connection:
        _take_turn(turn, schema)
        with connection.begin():
            exists = connection.scalar(text("SELECT to_regnamespace(:schema)"), {"schema": schema})
            if exists is None:
                connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table_schema=schema,
            include_schemas=True,
            include_name=lambda name, kind, _parents: kind != "schema" or name == schema,
            transaction_per_migration=True,  # what one has locked, the building of an index in the next one waits for
            on_version_apply=lambda step, **_: _note_oldest(connection, schema, *step.destination_revisions),
        )
        context.config.attributes[REPORT] = f"schema {schema}: {_migrate(context, connection, schema)}"
    engine.dispose()


def _engine(url: str) -> Engine:
    engine = create_engine(
        "postgresql+psycopg://",
        poolclass=pool.NullPool,
        creator=lambda: psycopg.connect(**{**keywords(url), "connect_timeout": CONNECT_TIMEOUT}),
        isolation_level="READ COMMITTED",  # what keeps a snapshot, also of our turn, keeps an index from being built
    )
    known = {**getattr(engine.dialect, "ischema_names", {}), "xid8": Xid8}  # SQLAlchemy does not know it
    vars(engine.dialect)["ischema_names"] = known

    @event.listens_for(engine, "begin")
    def without_limits(connection: Connection) -> None:
        # The role's limits are for the service: a migration takes its time, and so does waiting for it.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")

    return engine


def _take_turn(connection: Connection, schema: str) -> None:
    """Wait until nobody else migrates `schema`; our turn ends with the transaction of `connection`.

    PostgreSQL builds an index when every older snapshot is gone. So no statement waits for the lock, each try is a
    transaction of its own, and the key is in the text: a statement with parameters has its snapshot until the next one.
    """
    while not connection.scalar(text(f"SELECT pg_try_advisory_xact_lock({_lock_key(schema)})")):
        connection.rollback()
        time.sleep(POLL_INTERVAL)


def _migrate(context: Any, connection: Connection, schema: str) -> str:
    """Run the pending scripts, note which code the schema serves now, and return what was done."""
    before = context.get_context().get_current_revision()
    scripts = context.script
    known = [script.revision for script in scripts.walk_revisions()]
    if before and before not in known and serves(_compatible_from(connection, schema), known):
        return f"{before}, of a newer release, which serves this one; nothing to do"
    context.run_migrations()
    after = context.get_context().get_current_revision()
    if after:  # also of a schema that a release made which noted nothing
        _note_oldest(connection, schema, scripts.get_revision(after))
        connection.commit()
    return f"{before or 'nothing'} → {after}" if before != after else f"{after}, nothing to do"


def _compatible_from(connection: Connection, schema: str) -> str | None:
    found = connection.scalar(
        text(f'SELECT to_jsonb(version) ->> :column FROM "{schema}".alembic_version AS version'),  # noqa: S608
        {"column": COMPATIBLE_FROM},
    )
    return None if found is None else str(found)


def _note_oldest(connection: Connection, schema: str, *scripts: Any) -> None:
    """Note which code the schema serves after the migration `scripts`, of which there is one or none."""
    for script in scripts:
        oldest = getattr(script.module, COMPATIBLE_FROM, script.revision)
        if _compatible_from(connection, schema) != oldest:
            table = f'"{schema}".alembic_version'
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {COMPATIBLE_FROM} text"))
            connection.execute(text(f"UPDATE {table} SET {COMPATIBLE_FROM} = :oldest"), {"oldest": oldest})  # noqa: S608


def _lock_key(schema: str) -> int:
    digest = hashlib.sha256(f"playbook-runs migrate {schema}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
