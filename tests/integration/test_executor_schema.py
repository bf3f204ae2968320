"""The executor's tables, and who may bring them about."""

import os
import subprocess
import sys
from hashlib import md5
from uuid import UUID

import psycopg
from alembic import command

from devstack.postgres import Postgres
from executor_service import app
from servicekit import migrations


def test_the_migrations_lead_to_the_models(executor_database: str) -> None:
    command.check(migrations.config(executor_database, app.MIGRATIONS))


def test_many_may_migrate_at_once(postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated_by_many")
    url = postgres_server.url(database="migrated_by_many")
    env = os.environ | {"EXECUTOR_DATABASE_URL": url, "AUTH_MODE": "disabled"}
    migrators = [subprocess.Popen([sys.executable, "-m", "executor_service", "migrate"], env=env) for _ in range(3)]
    assert [migrator.wait(60) for migrator in migrators] == [0, 0, 0]

    configuration = migrations.config(url, app.MIGRATIONS)
    command.downgrade(configuration, "base")
    command.upgrade(configuration, "head")


def test_what_earlier_runs_did_survives_the_move_into_blocks_and_back(postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE with_items")
    url = postgres_server.url(database="with_items")
    configuration = migrations.config(url, app.MIGRATIONS)
    command.upgrade(configuration, "0002")
    with psycopg.connect(url) as connection:
        connection.execute("""
            INSERT INTO executor.run_items
            SELECT CAST(md5(run::text) AS uuid), 'p-' || n, CASE n % 3 WHEN 0 THEN 'SKIPPED' ELSE 'UPDATED' END,
                   CASE n % 3 WHEN 0 THEN 'why' ELSE '' END
            FROM (VALUES (1, 2500), (2, 1000), (3, 1)) AS run (run, items), generate_series(1, run.items) AS n""")

    def items() -> list[tuple[object, ...]]:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT * FROM executor.run_items ORDER BY 1, 2").fetchall()

    before = items()
    assert len(before) == 3_501
    command.upgrade(configuration, "head")
    assert items() == before
    with psycopg.connect(url) as connection:  # as executors of the version before do it
        connection.execute("""
            WITH updated AS (SELECT 'p-' || n AS id FROM generate_series(1, 3) AS n), told AS (
              INSERT INTO executor.run_items (run_id, product_id, status, message)
              SELECT CAST(md5('4') AS uuid), id, 'UPDATED', '' FROM updated
            ) SELECT count(*) FROM updated""")
    before = sorted([*before, *((UUID(md5(b"4").hexdigest()), f"p-{n}", "UPDATED", "") for n in (1, 2, 3))])
    assert items() == before
    command.downgrade(configuration, "0002")
    assert items() == before
