"""Whether the schema of a service's database is one that its code works with: the one that it knows, or a newer one
that says so of itself. So processes of two releases work side by side while one replaces the other."""

import logging
from collections.abc import Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from servicekit.errors import Reason, ServiceError, schema_mismatch
from servicekit.postgres.database import Database
from servicekit.postgres.pool import NoFreeConnection
from servicekit.postgres.revisions import COMPATIBLE_FROM, known, serves
from servicekit.postgres.server_settings import ACTUAL, SETTINGS, differences, role_statements
from servicekit.telemetry.outages import Outage

logger = logging.getLogger(__name__)


class Schema:
    """The schema `name` that the migration `scripts` lead to; `command` (runs-service) is whose `migrate` does it."""

    def __init__(self, database: Database, name: str, scripts: Path, *, command: str) -> None:
        self._database = database
        self._name = name
        self._known = known(scripts)
        self._command = command
        # As JSON, because schemas that an older release made have no such column.
        self._statement = sql.SQL("SELECT version_num, to_jsonb(version) ->> {} FROM {} AS version").format(
            sql.Literal(COMPATIBLE_FROM), sql.Identifier(name, "alembic_version")
        )
        self._are_settings_checked = False
        self._mismatch = Outage("the database is not ours to use", logger)

    @property
    def mismatch(self) -> str:
        """Why the schema is not ours to use, for operators; "" when it is, or nobody has asked yet."""
        return self._mismatch.reason

    async def problem(self) -> ServiceError | None:
        """Return what keeps the service from its work: SCHEMA_MISMATCH or DATABASE_UNAVAILABLE. None: nothing does.

        Logs a mismatch once, again each minute, and when it is over.
        """
        try:
            rows = await self._database.fetch_all(self._statement.as_string())
        except ServiceError as error:
            if isinstance(error.__cause__, NoFreeConnection):  # it has so much to do because it works
                return None
            if error.reason is not Reason.SCHEMA_MISMATCH:
                return error
            return self._noted(self._missing(error.__cause__), error)
        wrong = self._difference([(str(row[0]), row[1]) for row in rows])
        if wrong:
            return self._noted(wrong, schema_mismatch(self._command))
        self._mismatch.ended()
        if not self._are_settings_checked:
            await self._check_settings()
        return None

    async def _check_settings(self) -> None:
        """Log once what of the server's settings is not ours: behind a pooler it depends on the role's alone."""
        try:
            rows = await self._database.fetch_all(ACTUAL, {"names": list(SETTINGS)})
        except ServiceError:
            return  # the next time
        self._are_settings_checked = True
        if wrong := differences({row[0]: row[1] for row in rows}):
            role, database = rows[0][2], rows[0][3]
            logger.error(
                "the connections to the database do not have %s: a pooler drops what we ask for; statements may take "
                "any plan and any time. Give them to the role, as a superuser: %s",
                ", ".join(wrong),
                "; ".join(role_statements(f'"{role}"', f'"{database}"', wrong)),
            )

    def _noted(self, wrong: str, error: ServiceError) -> ServiceError:
        self._mismatch.failed(wrong)
        return error

    def _missing(self, cause: BaseException | None) -> str:
        if isinstance(cause, psycopg.errors.InsufficientPrivilege):
            return (
                f"its role may not use schema {self._name}: is this the URL of {self._command}'s own role? "
                f"`{self._command} migrate` makes the schema for the role that it runs as"
            )
        return f"schema {self._name} is missing: run `{self._command} migrate` with the same database URL"

    def _difference(self, versions: Sequence[tuple[str, str | None]]) -> str:
        head = self._known[-1]
        revisions = [revision for revision, _ in versions]
        if revisions == [head]:
            return ""
        at = ", ".join(revisions) or "no revision"
        if set(revisions) <= set(self._known):
            return f"schema {self._name} is at {at} and this release needs {head}: run `{self._command} migrate`"
        if all(serves(compatible_from, self._known) for _, compatible_from in versions):
            return ""
        oldest = ", ".join(compatible_from or revision for revision, compatible_from in versions)
        return (
            f"schema {self._name} is at {at}, which serves releases from {oldest} on, and this one knows {head}: "
            f"start the release whose `{self._command} migrate` made it"
        )
