"""The executor's tables, and who may bring them about."""

from hashlib import md5
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from alembic import command

from devstack.postgres import Postgres
from executor_service import app
from executor_service.predicates import BLANK, shows_nothing
from servicekit.blanks import BLANKS, is_blank
from servicekit.postgres import migrations
from tests.support.forking import Forks


def test_the_migrations_lead_to_the_models(executor_database: str) -> None:
    command.check(migrations.config(executor_database, app.MIGRATIONS))


def test_many_may_migrate_at_once(postgres_server: Postgres, executor_forks: Forks, tmp_path: Path) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated_by_many")
    url = postgres_server.url(database="migrated_by_many")
    env = {"EXECUTOR_DATABASE_URL": url, "AUTH_MODE": "disabled"}
    migrators = [executor_forks.run(tmp_path / f"log-{n}", "migrate", env=env) for n in range(3)]
    assert [migrator.wait(60) for migrator in migrators] == [0, 0, 0]

    configuration = migrations.config(url, app.MIGRATIONS)
    command.downgrade(configuration, "base")
    command.upgrade(configuration, "head")


def test_items_of_earlier_runs_survive_the_migration_to_blocks_and_back(postgres_server: Postgres) -> None:
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
            WITH updated AS (SELECT 'p-' || n AS id FROM generate_series(1, 3) AS n), noted AS (
              INSERT INTO executor.run_items (run_id, product_id, status, message)
              SELECT CAST(md5('4') AS uuid), id, 'UPDATED', '' FROM updated
            ) SELECT count(*) FROM updated""")
    before = sorted([*before, *((UUID(md5(b"4").hexdigest()), f"p-{n}", "UPDATED", "") for n in (1, 2, 3))])
    assert items() == before
    command.downgrade(configuration, "0002")
    assert items() == before


def test_the_database_takes_for_blank_what_we_do(executor_database: str) -> None:
    """Every character there is, and every field that begins or ends with a blank one."""
    characters = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF]
    texts = ["", *characters, *(f"{blank}a" for blank in BLANKS), *(f"é{blank}" for blank in BLANKS), BLANKS]
    condition = shows_nothing("field")
    with psycopg.connect(executor_database) as connection:
        cursor = connection.execute(f"SELECT field FROM unnest(%s::text[]) AS field WHERE {condition}", [texts])
        found = {field for (field,) in cursor.fetchall()}
    assert found == {"", *BLANKS, BLANKS} == {text for text in texts if is_blank(text)}


@pytest.mark.parametrize("field", ["seo_title", "seo_description"])
def test_blank_fields_are_found_through_their_index(executor_database: str, field: str) -> None:
    with psycopg.connect(executor_database) as connection:
        connection.execute("INSERT INTO executor.projects (id, plan) VALUES ('p', 'PRO')")
        connection.execute("""
            INSERT INTO executor.products
                (project_id, id, external_id, title, description, seo_title, seo_description)
            SELECT 'p', n, '', '', '', CASE n % 100 WHEN 0 THEN E'\\u3000' ELSE 'T' END,
                   CASE n % 100 WHEN 0 THEN E'\\u200b' ELSE 'D' END FROM generate_series(1, 5000) AS n""")
        connection.execute("ANALYZE executor.products")
        statement = f"SELECT id FROM executor.products WHERE project_id = 'p' AND {BLANK[field]}"
        assert len(connection.execute(statement).fetchall()) == 50
        plan = "\n".join(line for (line,) in connection.execute(f"EXPLAIN {statement}").fetchall())
    assert f"products_without_{field}" in plan


def test_the_migration_drops_invisible_suggestions_and_does_not_apply_unclean_ones(postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE with_unclean_texts")
    url = postgres_server.url(database="with_unclean_texts")
    configuration = migrations.config(url, app.MIGRATIONS)
    command.upgrade(configuration, "0003")
    texts = {
        "clean": "Mug, 5 < 6 & 7, I <3 it – é 漢字 می‌خواهم",
        "markup": "a <b>mug</b>",
        "comment": "a <!-- x --> mug",
        "reference": "&lt;b&gt; mug",
        "bidirectional": "a \u202egum",
        "zero width": "mu\u200bg",
        "tag": "mug\U000e0041",
        "nothing": "\u200b\u3000",
    }
    with psycopg.connect(url) as connection:
        for name, written in texts.items():
            draft = UUID(md5(name.encode()).hexdigest())
            connection.execute("INSERT INTO executor.suggestions VALUES ('p', %s, %s, 'm')", [name.encode(), written])
            connection.execute(
                """INSERT INTO executor.drafts VALUES (%s, 'p', 'missing_seo_title', %s, 'rules', '{}', 'READY', 1, 1,
                   0, 'm', %s, now(), now(), now() + interval '7 days')""",
                [draft, name, draft],
            )
            connection.execute(
                """INSERT INTO executor.draft_items
                   VALUES (%s, 'clean', 'Mug', 'Mug', '{}'), (%s, 'other', 'x', %s, '{}')""",
                [draft, draft, written],
            )
    command.upgrade(configuration, "head")
    with psycopg.connect(url) as connection:
        alive = connection.execute("SELECT scope_id FROM executor.drafts WHERE expires_at > now()").fetchall()
        stored = connection.execute("SELECT text FROM executor.suggestions").fetchall()
    assert alive == [("clean",)]
    assert {text for (text,) in stored} == set(texts.values()) - {texts["nothing"]}
    command.downgrade(configuration, "0003")
