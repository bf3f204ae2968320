"""ISO-001: neither service's database role can read the other's schema."""

import psycopg
import pytest

from devstack.stack import Stack


@pytest.mark.parametrize(("service", "foreign"), [("runs", "executor.products"), ("executor", "runs.runs")])
def test_ISO_001_a_service_cannot_read_the_others_schema(stack: Stack, service: str, foreign: str) -> None:
    url = stack.database_url("runs" if service == "runs" else "executor")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT * FROM {foreign}")


@pytest.mark.parametrize(("service", "own"), [("runs", "runs.runs"), ("executor", "executor.products")])
def test_ISO_001_and_can_read_its_own(stack: Stack, service: str, own: str) -> None:
    url = stack.database_url("runs" if service == "runs" else "executor")
    with psycopg.connect(url) as connection:
        connection.execute(f"SELECT * FROM {own} LIMIT 1")


@pytest.mark.parametrize("service", ["runs", "executor"])
def test_ISO_001_nor_make_anything_outside_its_own(stack: Stack, service: str) -> None:
    url = stack.database_url("runs" if service == "runs" else "executor")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE TABLE public.mine (id int)")
