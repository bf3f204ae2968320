"""Checks of a service's database: whether it answers, its schema, its role's settings, its clock, its notifications."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import psycopg

from servicekit.auth.tokens import LEEWAY
from servicekit.diagnosis import Finding, failed, ok, skipped
from servicekit.errors import ServiceError
from servicekit.postgres.address import password
from servicekit.postgres.database import Database
from servicekit.postgres.pool import connect
from servicekit.postgres.schema import Schema
from servicekit.postgres.server_settings import ACTUAL, SETTINGS, differences, role_statements
from servicekit.telemetry.outages import first_line

ANSWER_TIMEOUT = 5.0  # seconds
NOTIFICATION_TIMEOUT = 2.0  # seconds

_ASK = "SELECT current_setting('server_version') AS version, clock_timestamp() AS time"


async def database_findings(
    url: str, *, service: str, schema: str, scripts: Path, command: str, variable: str, listen_url: str | None = None
) -> list[Finding]:
    """Look at the database of `service` (runs) at `url`, which is the environment `variable`'s; `scripts` and `command`
    are those of its migration. With `listen_url`, notifications must arrive there."""
    named = [f"{service} {what}" for what in ("database", "clock", "schema", "role settings", "notifications")]
    if listen_url is None:
        named.pop()
    database = Database(url, pool_size=1, application_name="doctor", answer_timeout=ANSWER_TIMEOUT)
    try:
        try:
            before = datetime.now(UTC)
            row = await database.fetch_one(_ASK)
        except ServiceError as error:
            why = first_line(error.__cause__ or error, password(url))
            return [
                failed(named[0], why, f"start PostgreSQL, or correct {variable} and the role that it names"),
                *(skipped(name, "there is no database to ask") for name in named[1:]),
            ]
        ours = before + (datetime.now(UTC) - before) / 2
        findings = [
            ok(named[0], f"PostgreSQL {row.version} answers"),
            clock_finding(named[1], ours=ours, theirs=row.time),
            await _schema(named[2], Schema(database, schema, scripts, command=command), command),
            await _role_settings(named[3], database),
        ]
        if listen_url is not None:
            findings.append(await _notifications(named[4], database, listen_url))
        return findings
    finally:
        await database.close()


def clock_finding(check: str, *, ours: datetime, theirs: datetime) -> Finding:
    """Compare this machine's clock with the database server's: tokens are refused by one that is too far off."""
    seconds = abs(ours - theirs) / timedelta(seconds=1)
    message = f"this machine and the database differ by {seconds:.1f} s"
    if seconds > LEEWAY:
        return failed(check, message, f"set both by NTP: tokens take {LEEWAY:.0f} s at most")
    return ok(check, message)


async def _schema(check: str, schema: Schema, command: str) -> Finding:
    problem = await schema.problem()
    if problem is None:
        return ok(check, "it is what this release works with")
    return failed(check, schema.mismatch or str(problem), f"run `{command} migrate`, or start another release")


async def _role_settings(check: str, database: Database) -> Finding:
    rows = await database.fetch_all(ACTUAL, {"names": list(SETTINGS)})
    wrong = differences({row.name: row.setting for row in rows})
    if not wrong:
        return ok(check, f"{', '.join(SETTINGS)} are ours")
    needed = role_statements(f'"{rows[0].current_user}"', f'"{rows[0].current_database}"', wrong)
    return failed(
        check,
        f"connections do not have our {', '.join(wrong)}: a pooler drops what they ask for",
        f"as a superuser: {'; '.join(needed)}",
    )


async def _notifications(check: str, database: Database, url: str) -> Finding:
    """Listen as watchers do, and have the database notify."""
    channel = f"doctor_{uuid4().hex}"
    try:
        listener = await connect(url, answer_timeout=ANSWER_TIMEOUT, application_name="doctor")
        async with listener:
            await listener.execute(f"LISTEN {channel}")
            await database.execute("SELECT pg_notify(%(channel)s, '')", {"channel": channel})
            async for _ in listener.notifies(timeout=NOTIFICATION_TIMEOUT, stop_after=1):
                return ok(check, "they arrive")
    except (psycopg.Error, ServiceError) as error:
        return failed(check, first_line(error, password(url)), "correct RUNS_LISTEN_DATABASE_URL")
    return failed(
        check,
        "a pooler in between does not forward them: watchers get changes by a poll each second",
        "set RUNS_LISTEN_DATABASE_URL to a URL past the pooler, or to a pool of sessions",
    )
