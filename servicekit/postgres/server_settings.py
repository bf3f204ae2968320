"""What PostgreSQL has to be set to for our statements, on every connection.

A connection asks for it by itself (OPTIONS). Poolers refuse that or ignore it, so provisioning also sets it for the
roles (`role_statements`), and a service compares at its start (`differences`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

STATEMENT_TIMEOUT: Final = 30_000  # milliseconds
# Milliseconds after which a transaction that does nothing is ended, and its locks with it: its owner stands still, and
# others wait for what it locked. Ours do one thing after the other.
IDLE_TIMEOUT: Final = 5_000
# As pg_settings shows them.
SETTINGS: Final[Mapping[str, str]] = {
    "statement_timeout": str(STATEMENT_TIMEOUT),
    "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT),
    "TimeZone": "UTC",
    # Every statement has an index that fits it, so one plan is good for all table sizes. It is made once, where the
    # planner would make a new one for every call (it takes longer than most statements do), and never a scan of the
    # table that was small when it was made. And a queue's indexes are full of entries of rows that have moved on: an
    # index scan marks them, and the next one passes them over; a bitmap scan reads all of them every time, until the
    # next VACUUM.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}
OPTIONS: Final = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())

ACTUAL: Final = "SELECT name, setting, current_user, current_database() FROM pg_settings WHERE name = ANY(%(names)s)"


def role_statements(role: str, database: str, names: Iterable[str] = SETTINGS) -> list[str]:
    """Return the statements that give `role` the settings of these `names` in `database`, however it connects. Role and
    database are quoted."""
    return [f"ALTER ROLE {role} IN DATABASE {database} SET {name} = '{SETTINGS[name]}'" for name in names]


def differences(actual: Mapping[str, str]) -> list[str]:
    """Return the names of the settings that are not ours."""
    return [name for name, value in SETTINGS.items() if actual.get(name) != value]
