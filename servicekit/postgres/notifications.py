"""Hints between the processes of a service, over PostgreSQL's LISTEN and NOTIFY.

A hint only says "look now": a process that misses one finds the same by reading its table a moment later.
"""

import logging
from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import text

from servicekit.background.batching import Conflator
from servicekit.background.tasks import Worker
from servicekit.errors import database_unavailable
from servicekit.postgres.database import ANSWER_TIMEOUT, CONNECT_TIMEOUT, LOST, Database, connect, psycopg_url

logger = logging.getLogger(__name__)

PAYLOAD_LIMIT = 7_900  # bytes; NOTIFY fails the statement at 8,000
WORDS = 10_000  # at once
PAUSE = 0.01  # seconds between two NOTIFYs: each holds a lock that all writers of the server share
IDLE_CHECK = 30  # seconds without a hint after which the connection is tried


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
        self._url = psycopg_url(url)
        self._channel = channel
        self._on_notification = on_notification
        self._on_gap = on_gap
        self._answer_timeout = answer_timeout

    async def run(self) -> None:
        """Listen until cancelled. Raises ServiceError (DATABASE_UNAVAILABLE) when the connection is lost."""
        try:
            await self._listen()
        except LOST as error:
            raise database_unavailable() from error

    async def _listen(self) -> None:
        connection = await connect(
            self._answer_timeout,
            self._url,
            connect_timeout=CONNECT_TIMEOUT,
            application_name=f"listen-{self._channel}",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        async with connection:
            await connection.execute(f'LISTEN "{self._channel}"')
            self._on_gap()
            while True:
                async for notification in connection.notifies(timeout=self._idle_check):
                    self._on_notification(notification.payload)
                await connection.execute("SELECT 1")


class Notifier(Conflator[str, None]):
    """Notifies other processes on `channel`, off the write path: what comes in while one NOTIFY is under way goes
    out with the next. When the database fails, hints are dropped."""

    def __init__(self, database: Database, channel: str) -> None:
        super().__init__(limit=WORDS, pause=PAUSE)
        self._database = database
        self._channel = channel

    def notify(self, words: Iterable[str]) -> None:
        """Send `words` (short, without blanks) soon; the same word once."""
        self.put(dict.fromkeys(words))

    async def handle(self, batch: Mapping[str, None]) -> None:
        """Send one batch."""
        async with self._database.autocommit() as connection:
            for payload in payloads(list(batch)):
                await connection.execute(
                    text("SELECT pg_notify(:channel, :payload)"), {"channel": self._channel, "payload": payload}
                )


def payloads(words: list[str]) -> list[str]:
    """Join `words` by blanks into as few payloads as PostgreSQL's limit allows."""
    joined = [""]
    for word in words:
        if len(joined[-1]) + 1 + len(word) > PAYLOAD_LIMIT:
            joined.append("")
        joined[-1] = f"{joined[-1]} {word}".strip()
    return [payload for payload in joined if payload]
