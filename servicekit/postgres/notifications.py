"""Hints between the processes of a service, over PostgreSQL's LISTEN and NOTIFY.

A hint only says "look now": a process that misses one finds the same by reading its table a moment later.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from uuid import uuid4

from servicekit.background.batching import Conflator
from servicekit.background.tasks import Worker
from servicekit.errors import database_unavailable
from servicekit.postgres.address import password
from servicekit.postgres.database import CONNECTION_ERRORS, Database
from servicekit.postgres.pool import ANSWER_TIMEOUT, BoundedConnection, connect
from servicekit.telemetry.outages import Outage, first_line

logger = logging.getLogger(__name__)

PAYLOAD_LIMIT = 7_900  # bytes; NOTIFY fails the statement at 8,000
WORDS = 10_000  # at once
PAUSE = 0.01  # seconds between two NOTIFYs: each takes a lock that all writers of the server share
CHECK_TIMEOUT = 2.0  # seconds in which a notification of our own has to arrive through a pooler
IDLE_CHECK = 30  # seconds without a hint after which the connection is tried

NOTIFY = "SELECT pg_notify(%(channel)s, %(payload)s)"


class Listener(Worker):
    """Calls `on_notification` with each payload on `channel`, and `on_gap` whenever some may be lost (at the start and
    after every lost connection). A connection that answers nothing for `answer_timeout` seconds counts as lost."""

    def __init__(
        self,
        url: str,
        channel: str,
        *,
        on_notification: Callable[[str], None],
        on_gap: Callable[[], None],
        answer_timeout: float = ANSWER_TIMEOUT,
        idle_check: float = IDLE_CHECK,
    ) -> None:
        super().__init__()
        self._idle_check = idle_check
        self._url = url
        self._channel = channel
        self._outage = Outage(f"LISTEN {channel} is not possible", logger)
        self._on_notification = on_notification
        self._on_gap = on_gap
        self._answer_timeout = answer_timeout

    async def run(self) -> None:
        """Listen until cancelled. Raises ServiceError (DATABASE_UNAVAILABLE) when the connection is lost."""
        try:
            await self._listen()
        except CONNECTION_ERRORS as error:
            self._outage.failed(first_line(error, password(self._url)))
            raise database_unavailable() from error

    async def _listen(self) -> None:
        connection = await connect(
            self._url, answer_timeout=self._answer_timeout, application_name=f"listen-{self._channel}"
        )
        async with connection:
            await connection.execute(f'LISTEN "{self._channel}"')
            if await self._is_deaf(connection):
                self._outage.failed(
                    "a pooler between us and PostgreSQL lends connections by the transaction, and passes no "
                    "notification on; set RUNS_LISTEN_DATABASE_URL to one that leads past it, or to a pool of sessions"
                )
            else:
                self._outage.ended()
            self._on_gap()
            while True:
                async for notification in connection.notifies(timeout=self._idle_check):
                    self._on_notification(notification.payload)
                await connection.execute("SELECT 1")

    async def _is_deaf(self, connection: BoundedConnection) -> bool:
        """Tell whether a pooler takes the connection away between statements: then no notification arrives.

        A pooler answers with a process id of its own. Behind one, what another connection notifies decides.
        """
        (real,) = await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or (0,)
        if real == connection.info.backend_pid:
            return False
        channel = f"check-{uuid4()}"
        await connection.execute(f'LISTEN "{channel}"')
        other = await connect(
            self._url, answer_timeout=self._answer_timeout, application_name=f"listen-{self._channel}"
        )
        async with other:
            await other.execute(NOTIFY, {"channel": channel, "payload": ""})
        has_arrived = False
        async with aclosing(connection.notifies(timeout=CHECK_TIMEOUT)) as arriving:
            async for notification in arriving:
                has_arrived = notification.channel == channel
                if has_arrived:
                    break
        await connection.execute(f'UNLISTEN "{channel}"')
        return not has_arrived


class Notifier(Conflator[str, None]):
    """Notifies other processes on `channel`, off the write path: what comes in while one NOTIFY is under way, and for
    `pause` seconds after it, goes out with the next. When the database fails, hints are dropped."""

    def __init__(self, database: Database, channel: str, *, pause: float = PAUSE) -> None:
        super().__init__(limit=WORDS, pause=pause)
        self._database = database
        self._channel = channel

    def notify(self, words: Iterable[str]) -> None:
        """Send `words` (short, without blanks) soon; the same word once."""
        self.put(dict.fromkeys(words))

    async def handle(self, batch: Mapping[str, None]) -> None:
        """Send one batch."""
        for payload in payloads(list(batch)):
            await self._database.execute(NOTIFY, {"channel": self._channel, "payload": payload})


def payloads(words: list[str]) -> list[str]:
    """Join `words` by blanks into as few payloads as PostgreSQL's limit allows."""
    joined = [""]
    for word in words:
        if len(joined[-1]) + 1 + len(word) > PAYLOAD_LIMIT:
            joined.append("")
        joined[-1] = f"{joined[-1]} {word}".strip()
    return [payload for payload in joined if payload]
