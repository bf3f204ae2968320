"""Which revision a schema is at and which one its scripts lead to, without importing Alembic: that takes longer than
most starts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from servicekit.postgres.address import keywords

# A column of Alembic's table of versions: the oldest revision whose code works with the schema. A migration says so
# with a variable of that name. One that does not serves its own code only.
COMPATIBLE_FROM: Final = "compatible_from"

_REVISION = re.compile(r'^(revision|down_revision)\s*=\s*"(\w+)"', re.MULTILINE)


def known(scripts: Path) -> list[str]:
    """Return all revisions of the migration `scripts`; the last one is what they lead to. Raises ValueError when that
    is not one."""
    found = [dict(_REVISION.findall(file.read_text())) for file in sorted((scripts / "versions").glob("*.py"))]
    followed = {revision.get("down_revision") for revision in found}
    (head,) = [revision["revision"] for revision in found if revision["revision"] not in followed]
    return [*(revision["revision"] for revision in found if revision["revision"] != head), head]


def head(scripts: Path) -> str:
    """Return the revision that the migration `scripts` lead to. Raises ValueError when it is not one."""
    return known(scripts)[-1]


def serves(compatible_from: str | None, known: Sequence[str]) -> bool:
    """Tell whether a schema of a newer release serves code that knows the revisions `known`.

    `compatible_from` is what the schema says of itself: the oldest revision whose code works with it.
    """
    return compatible_from in known


def is_current(url: str, scripts: Path, schema: str) -> bool:
    """Tell whether a schema is where its scripts lead to. Raises psycopg.OperationalError when there is no database."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(**keywords(url)) as connection:
        table = sql.Identifier(schema, "alembic_version")
        if connection.execute("SELECT to_regclass(%s)", [f"{schema}.alembic_version"]).fetchone() == (None,):
            return False
        rows = connection.execute(sql.SQL("SELECT version_num FROM {}").format(table)).fetchall()
    return rows == [(head(scripts),)]
