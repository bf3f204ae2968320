"""The scope as the database works it out: the contract's digits, without the ids."""

import asyncio

import psycopg
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from executor_service.domain.catalog import Product, Project, Scope
from executor_service.playbooks.playbook import PLAYBOOKS
from executor_service.playbooks.quota import Plan
from executor_service.playbooks.scope import scope_id
from executor_service.store import catalog
from servicekit.postgres.database import Database
from tests.integration.conftest import EMPTY

# Whatever the API takes; PostgreSQL has no NUL, UTF-8 no lone surrogate.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
CATALOGS = st.dictionaries(TEXTS, st.tuples(st.sampled_from(["", " \t", "set"]), st.sampled_from(["", "\n", "set"])))


@example(project="p", products={})
@example(project="p:missing_seo_title", products={"": ("", "")} | {"a,b": ("", ""), "a": ("", ""), "b": ("", "")})
@example(project="%s:name", products={"%": ("", ""), "\\": ("", ""), "'": ("", ""), '"': ("", ""), ":id": ("", "")})
@example(project="p", products=dict.fromkeys(("🏔", "ﬁ", "ä", "ä", "Z", "a", "a!", "a,", "a ", "ß"), ("", "")))
@given(project=TEXTS, products=CATALOGS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_database_names_the_scope_as_the_contract_does(
    executor_database: str, project: str, products: dict[str, tuple[str, str]]
) -> None:
    with psycopg.connect(executor_database, autocommit=True) as connection:
        connection.execute(EMPTY)  # type: ignore[arg-type]
    found = asyncio.run(scopes(executor_database, project, products))
    for number, playbook in enumerate(PLAYBOOKS):
        affected = [product_id for product_id, fields in products.items() if not fields[number].strip()]
        assert found[playbook.id] == (scope_id(project, playbook.id, affected), len(affected))


async def scopes(url: str, project: str, products: dict[str, tuple[str, str]]) -> dict[str, Scope]:
    database = Database(url, pool_size=1, application_name="test")
    try:
        async with database.transaction() as connection:
            await catalog.ensure_project(connection, Project(project, Plan.PRO, None))
            await catalog.put_products(
                connection, project, [Product(one, "", "T", "", *fields) for one, fields in products.items()]
            )
            return {playbook.id: await catalog.scope(connection, project, playbook) for playbook in PLAYBOOKS}
    finally:
        await database.close()
