"""Make the product's database, and give each service a role and a schema that the other cannot read.

Run as `python -m devstack.provision` with `ADMIN_DATABASE_URL` (a superuser's), `RUNS_DATABASE_PASSWORD` and
`EXECUTOR_DATABASE_PASSWORD` set: docker compose does that. Any number of times; passwords are set anew each time.
"""

import os
import sys
from collections.abc import Mapping

from servicekit.postgres.server_settings import role_statements
from servicekit.telemetry.printable import printable_lines

DATABASE = "playbook_runs"
SCHEMAS: Mapping[str, str] = {"runs_service": "runs", "executor_service": "executor"}  # role: what it owns


def provision(admin_url: str, passwords: Mapping[str, str]) -> None:
    """Bring database, roles and schemas about, as a superuser.

    Takes the URL of any database but the product's own, and the password of each role in SCHEMAS. Raises psycopg.Error.
    """
    import psycopg  # here, so that PostgreSQL can start meanwhile
    from psycopg import sql

    with psycopg.connect(admin_url, autocommit=True) as server:
        if not server.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).rowcount:
            server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    with psycopg.connect(admin_url, dbname=DATABASE) as connection:
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE)))
        connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for role, schema in SCHEMAS.items():
            names = {
                "role": sql.Identifier(role),
                "schema": sql.Identifier(schema),
                "database": sql.Identifier(DATABASE),
            }
            if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
                connection.execute(sql.SQL("CREATE ROLE {role}").format(**names))
            for statement in (
                "ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD {password}",
                "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}",
                "CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}",
                "REVOKE ALL ON SCHEMA {schema} FROM PUBLIC",
            ):
                connection.execute(sql.SQL(statement).format(password=sql.Literal(passwords[role]), **names))
            # A pooler between the services and us drops what a connection asks for.
            for given in role_statements(f'"{role}"', f'"{DATABASE}"'):
                connection.execute(given.encode())


def main() -> None:
    """Provision what the environment names."""
    import psycopg

    try:
        passwords = {
            "runs_service": os.environ["RUNS_DATABASE_PASSWORD"],
            "executor_service": os.environ["EXECUTOR_DATABASE_PASSWORD"],
        }
        provision(os.environ["ADMIN_DATABASE_URL"], passwords)
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set")
    except psycopg.Error as error:
        sys.exit(f"the database cannot be provisioned: {printable_lines(str(error))}")


if __name__ == "__main__":
    main()
