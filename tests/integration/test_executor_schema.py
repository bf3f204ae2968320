"""The executor's tables, and who may bring them about."""

import os
import subprocess
import sys

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
