"""Migrations expand first and contract later: while one release replaces another, both work with the same schema."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import Script, ScriptDirectory

from executor_service.app import MIGRATIONS as EXECUTOR
from runs_service.app import MIGRATIONS as RUNS
from servicekit.postgres import migrations
from tests.support.released import Release

SERVICES = pytest.mark.parametrize(("service", "scripts"), [("runs", RUNS), ("executor", EXECUTOR)])
# What a process of the release before cannot bear, as Alembic's operations and in SQL.
CONTRACTING = {
    *("drop_column", "drop_table", "drop_constraint", "drop_index", "remove_index", "rename_table"),
    *("create_check_constraint", "create_unique_constraint", "create_foreign_key"),
    *("create_exclude_constraint", "create_primary_key"),
}
CONTRACTING_SQL = re.compile(
    r"\b(DROP\s+(?!NOT\s+NULL)\w+|RENAME|TRUNCATE|SET\s+NOT\s+NULL|SET\s+SCHEMA|ADD\s+(CONSTRAINT|CHECK|UNIQUE|FOREIGN"
    r"|PRIMARY)|ALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE|CREATE\s+UNIQUE)\b",
    re.IGNORECASE,
)
ADDS_NOT_NULL = re.compile(
    r"\bADD\s+(COLUMN\s+)?(?=\w+\s)(?!CONSTRAINT)[^,;]*?\bNOT\s+NULL\b(?![^,;]*\bDEFAULT\b)", re.I
)

INDEXING = {"create_index", "build_index"}
INDEX_SQL = re.compile(r"\b(CREATE(\s+UNIQUE)?|DROP)\s+INDEX\b", re.I)
CONCURRENT = {"build_index", "remove_index"}


def contractions(source: str) -> list[str]:
    """Return what a migration does on its way up that code of the release before cannot work with."""
    module = ast.parse(source)
    made = _made(module)
    return [one for function in _ways_up(module) for one in _contractions(function, made)]


def blocking_indexes(source: str) -> list[str]:
    """Return how a migration's indexes keep the services from writing, or a second try from making them good."""
    module = ast.parse(source)
    made = _made(module)
    found: list[str] = []
    for function in _ways_up(module):
        names = {_name(call) for call in _calls(function)}
        found += [
            "create_index of a table that is there: use build_index"
            for call in _calls(function)
            if _name(call) == "create_index" and not _is_of(call, made)
        ]
        if "drop_index" in names:
            found.append("drop_index: use remove_index")
        found += [
            f"{sql[0]}: use build_index or remove_index" for sql in map(INDEX_SQL.search, _texts(function)) if sql
        ]
        if names & CONCURRENT and names - CONCURRENT:
            found.append("build_index or remove_index beside other steps: make it a migration of its own")
    return found


def _made(module: ast.Module) -> set[str]:
    """Return the tables that a migration makes."""
    return {
        str(name.value)
        for call in _calls(module)
        if _name(call) == "create_table" and isinstance(name := call.args[0], ast.Constant)
    }


def _ways_up(module: ast.Module) -> Iterator[ast.FunctionDef]:
    return (one for one in ast.walk(module) if isinstance(one, ast.FunctionDef) and one.name != "downgrade")


def _texts(function: ast.FunctionDef) -> Iterator[str]:
    return (one.value for one in ast.walk(function) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def _contractions(function: ast.FunctionDef, made: set[str]) -> Iterator[str]:
    for call in _calls(function):
        name = _name(call)
        keywords = {word.arg: word.value for word in call.keywords}
        if name in CONTRACTING:
            yield name
        elif name == "alter_column" and keywords.keys() - {"schema", "server_default", "comment"} - _loosening(
            keywords
        ):
            yield "alter_column"
        elif name == "alter_column" and _is(keywords.get("server_default"), None):
            yield "alter_column without a default"
        elif name in INDEXING and _is(keywords.get("unique"), True) and not _is_of(call, made):
            yield "a unique index"
        elif name == "add_column" and any(map(_needs_a_value, _calls(call))):
            yield "a column that must be given"
    for text in _texts(function):
        if found := CONTRACTING_SQL.search(text) or ADDS_NOT_NULL.search(text):
            yield found[0]


def _loosening(keywords: dict[str | None, ast.expr]) -> set[str | None]:
    return {"nullable"} if _is(keywords.get("nullable"), True) else set()


def _needs_a_value(call: ast.Call) -> bool:
    keywords = {word.arg: word.value for word in call.keywords}
    return _name(call) == "Column" and _is(keywords.get("nullable"), False) and "server_default" not in keywords


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_of(call: ast.Call, tables: set[str]) -> bool:
    return len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and call.args[1].value in tables


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    return (one for one in ast.walk(node) if isinstance(one, ast.Call))


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def since_the_last_release(service: str, scripts: Path) -> tuple[list[str], list[Script]]:
    """Return all revisions of a service's schema in their order, and the migrations that the last release has not."""
    chain = list(ScriptDirectory.from_config(migrations.config("", scripts)).walk_revisions())[::-1]
    order = [script.revision for script in chain]
    return order, chain[order.index(Release.last().schemas[service]) + 1 :]


def oldest_served(script: Script) -> str:
    return str(getattr(script.module, "compatible_from", script.revision))


@SERVICES
def test_the_schema_serves_the_last_release_at_each_step(service: str, scripts: Path) -> None:
    order, fresh = since_the_last_release(service, scripts)
    last = Release.last().schemas[service]
    served = [order.index(oldest_served(script)) for script in fresh]
    for script, oldest in zip(fresh, served, strict=True):
        assert oldest <= order.index(last), (
            f"{service} {script.revision}: if the last release's code works with this schema, say so with "
            f"compatible_from = {last!r} or older; else contract a release later (docs/releasing.md)"
        )
    assert served == sorted(served), "a later migration cannot serve code that an earlier one does not"


@SERVICES
def test_what_contracts_is_out_of_use_in_the_last_release(service: str, scripts: Path) -> None:
    last = Release.last().schemas[service]
    for script in since_the_last_release(service, scripts)[1]:
        if found := contractions(Path(script.path).read_text()):
            assert oldest_served(script) == last, (
                f"{service} {script.revision} contracts ({', '.join(found)}): only what the last release does not use "
                f"any more may go, and the migration says so with compatible_from = {last!r}"
            )


@SERVICES
def test_no_index_keeps_the_services_from_writing(service: str, scripts: Path) -> None:
    for script in since_the_last_release(service, scripts)[1]:
        assert not blocking_indexes(Path(script.path).read_text()), f"{service} {script.revision}"


@pytest.mark.parametrize(
    ("steps", "is_blocking"),
    [
        ('op.create_index("some", "runs", ["a"])', True),
        ('op.execute("CREATE INDEX some ON runs.runs (a)")', True),
        ('op.drop_index("some", "runs")', True),
        ('op.execute("DROP INDEX runs.some")', True),
        ('build_index("some", "runs (a)", schema="runs")\n    op.add_column("runs", a)', True),
        ('remove_index("some", schema="runs")\n    op.add_column("runs", a)', True),
        ('remove_index("some", schema="runs")', False),
        ('build_index("some", "runs (a)", schema="runs")', False),
        ('op.create_table("t", a)\n    op.create_index("some", "t", ["a"])', False),
    ],
)
def test_an_index_that_keeps_them_from_writing_is_found(steps: str, is_blocking: bool) -> None:
    assert bool(blocking_indexes(f"def upgrade():\n    {steps}\n")) is is_blocking
    assert not blocking_indexes(f"def downgrade():\n    {steps}\n")


@pytest.mark.parametrize(
    "step",
    [
        'op.drop_column("runs", "a", schema="runs")',
        'op.drop_table("runs", schema="runs")',
        'op.rename_table("runs", "walks")',
        'remove_index("some", schema="runs")',
        'op.add_column("runs", sa.Column("a", sa.Text, nullable=False))',
        'op.alter_column("runs", "a", nullable=False)',
        'op.alter_column("runs", "a", new_column_name="b")',
        'op.alter_column("runs", "a", type_=sa.BigInteger)',
        'op.alter_column("runs", "a", server_default=None)',
        'op.create_index("once", "runs", ["a"], unique=True)',
        'build_index("once", "runs (a)", schema="runs", unique=True)',
        'op.create_check_constraint("short", "runs", "length(a) < 9")',
        'op.execute("ALTER TABLE runs.runs DROP COLUMN a")',
        'op.execute("ALTER TABLE runs.runs ADD a text NOT NULL")',
        'op.execute("ALTER TABLE runs.runs RENAME a TO b")',
        'op.execute(f"ALTER TABLE runs.runs ALTER COLUMN {name} SET NOT NULL")',
        'op.execute("ALTER TABLE runs.runs ALTER a TYPE bigint")',
        'op.execute("ALTER TABLE runs.runs ADD CONSTRAINT c CHECK (a > 0)")',
        'op.execute("CREATE UNIQUE INDEX once ON runs.runs (a)")',
    ],
)
def test_a_step_that_older_code_cannot_work_with_is_found(step: str) -> None:
    assert contractions(f"def upgrade():\n    {step}\n")
    assert contractions(f"def upgrade():\n    helped()\n\ndef helped():\n    {step}\n")
    assert not contractions(f"def downgrade():\n    {step}\n")


@pytest.mark.parametrize(
    "step",
    [
        'op.add_column("runs", sa.Column("a", sa.Text))',
        'op.add_column("runs", sa.Column("a", sa.Text, nullable=False, server_default=""))',
        'op.alter_column("runs", "a", nullable=True)',
        'op.alter_column("runs", "a", server_default="1")',
        'op.create_index("some", "runs", ["a"])',
        'build_index("some", "runs (a)", schema="runs")',
        'op.create_table("t", sa.Column("a", sa.Text, nullable=False))',
        'op.create_table("t", sa.Column("a"))\n    op.create_index("once", "t", ["a"], unique=True)',
        'op.execute("ALTER TABLE runs.runs ADD COLUMN a text NOT NULL DEFAULT 0")',
        'op.execute("ALTER TABLE runs.runs ALTER a DROP NOT NULL")',
        'op.execute("UPDATE runs.runs SET a = 1")',
    ],
)
def test_a_step_that_expands_is_none(step: str) -> None:
    assert not contractions(f"def upgrade():\n    {step}\n")
