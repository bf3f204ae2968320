"""Indexes of tables that grow: a migration builds and drops them while the services write."""

import psycopg

from servicekit.postgres.address import keywords

# The role's limit is for the service. And a migration that was killed builds no further.
OPTIONS = "-c statement_timeout=0 -c client_connection_check_interval=1s"


def build_index(name: str, on: str, *, schema: str, unique: bool = False) -> None:
    """Build an index as the only step of a migration; `on` is the table with the columns: "runs (id) WHERE …".

    PostgreSQL builds it outside of a transaction, so an interrupted build stays there, INVALID: every write pays for
    it, and no query uses it. The next one drops it and begins anew.
    """
    kind = "UNIQUE INDEX" if unique else "INDEX"
    with _connect() as connection:
        found = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [f"{schema}.{name}"]
        ).fetchone()
        if found == (False,):
            connection.execute(f"DROP INDEX CONCURRENTLY {schema}.{name}".encode())
        if found != (True,):
            connection.execute(f"CREATE {kind} CONCURRENTLY {name} ON {schema}.{on}".encode())


def remove_index(name: str, *, schema: str) -> None:
    """Drop an index as the only step of a migration; one that was interrupted is gone on with.

    PostgreSQL waits for the transactions that have the table, a dump for instance, and others do not wait behind it.
    """
    with _connect() as connection:
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {schema}.{name}".encode())


def _connect() -> psycopg.Connection:
    """Return a connection of its own to the database that is migrated: neither step can be in a transaction."""
    from alembic import context

    return psycopg.connect(**keywords(context.config.attributes["url"], options=OPTIONS), autocommit=True)
