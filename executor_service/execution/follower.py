"""How executions stand and go on, whichever process works on them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from executor_service.domain.execution import State
from executor_service.execution.event_publisher import EventPublisher
from executor_service.store import executions
from servicekit.postgres.database import Database

POLL = 0.5  # seconds between looks at the row while nothing is heard: another process may have the run


class Follower:
    """Tells how executions go on."""

    def __init__(self, database: Database, publisher: EventPublisher) -> None:
        self._database = database
        self._publisher = publisher

    async def follow(self, run_id: UUID, tell: Callable[[State], Awaitable[None]]) -> None:
        """Tell the execution's state as it is now and after each change, up to the terminal one.

        Raises ServiceError. The execution does not depend on anybody following it.
        """
        with self._publisher.subscription(run_id) as changes:  # before the first look, so that nothing falls between
            state = await self._read(run_id)
            await tell(state)
            while not state.status.is_terminal:
                try:
                    async with asyncio.timeout(POLL):
                        next_state = await changes.get()
                except TimeoutError:
                    next_state = await self._read(run_id)
                if next_state.number > state.number:
                    state = next_state
                    await tell(state)

    async def states(self, run_ids: Sequence[UUID]) -> list[State]:
        """Return how the executions that are here stand. Raises ServiceError."""
        async with self._database.autocommit() as connection:
            return await executions.states(connection, run_ids)

    async def _read(self, run_id: UUID) -> State:
        (state,) = await self.states([run_id])
        return state
