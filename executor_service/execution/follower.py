"""The states of executions, whichever process works on them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from executor_service.domain.execution import State
from executor_service.execution.event_publisher import EventPublisher
from executor_service.store import executions
from servicekit.postgres.database import Database

POLL = (
    0.5  # seconds between reads of the row: another process may work on the run, and its changes are not published here
)


class Follower:
    """Reads states of executions, and follows their changes."""

    def __init__(self, database: Database, publisher: EventPublisher) -> None:
        self._database = database
        self._publisher = publisher

    async def follow(self, run_id: UUID, send: Callable[[State], Awaitable[None]]) -> None:
        """Send the execution's state as it is now and after each change, up to the terminal one.

        Raises ServiceError. The execution goes on when the caller stops following.
        """
        with self._publisher.subscription(run_id) as changes:  # before the first read, so that no change is missed
            state = await self._read(run_id)
            await send(state)
            while not state.status.is_terminal:
                try:
                    async with asyncio.timeout(POLL):
                        next_state = await changes.get()
                except TimeoutError:
                    next_state = await self._read(run_id)
                if next_state.number > state.number:
                    state = next_state
                    await send(state)

    async def states(self, run_ids: Sequence[UUID]) -> list[State]:
        """Return the states of those of the executions that are here. Raises ServiceError."""
        async with self._database.autocommit() as connection:
            return await executions.states(connection, run_ids)

    async def _read(self, run_id: UUID) -> State:
        (state,) = await self.states([run_id])
        return state
