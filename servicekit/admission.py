"""Who may make a server receive a request: decided by a call's headers, before a byte of the request is read.

Until it is read, HTTP/2 holds 64 kB of it at most. So strangers cannot make the process hold more than that for each
stream, however large their requests are or claim to be.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from servicekit.auth import Authenticator, Principal, Role, set_principal
from servicekit.errors import Reason, ServiceError
from servicekit.limits import Limits
from servicekit.metrics import Metrics

RETRY_AFTER = timedelta(seconds=1)

Task = asyncio.Task[Any]


class _Caller:
    """What one caller has under way."""

    __slots__ = ("calls", "receiving")

    def __init__(self) -> None:
        self.calls = 0
        self.receiving = 0


class Admission:
    """Lets calls in: of known callers, and of each no more than `limits` say.

    The services' own calls are not counted: whoever can sign a token of theirs can do worse. A request that has not
    arrived after `limits.receive_seconds` is not waited for any longer. Use it in the task of the call.
    """

    def __init__(self, authenticator: Authenticator, limits: Limits, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._limits_reached = metrics.limits_reached
        self._callers: dict[str, _Caller] = {}  # by user id
        self._calls = 0
        self._receiving: dict[Task, tuple[_Caller, float]] = {}  # since when, by the loop's clock; the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> None:
        """Let the call of this task in, in the name of its principal.

        Raises ServiceError: TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID, TOO_MANY_CALLS.
        """
        principal = self._authenticator.authenticate(_authorization(metadata))
        set_principal(principal)
        task = asyncio.current_task()
        assert task is not None, "gRPC serves each call in a task"
        caller = self._callers.setdefault(principal.user_id, _Caller())
        if not _is_service(principal):
            self._require_room(caller)
        self._calls += 1
        caller.calls += 1
        caller.receiving += 1
        self._receiving[task] = caller, asyncio.get_running_loop().time()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._limits.receive_seconds, self._give_up)
        task.add_done_callback(partial(self._left, principal.user_id, caller))

    def received(self) -> None:
        """Note that the request of this task's call has arrived."""
        task = asyncio.current_task()
        assert task is not None, "gRPC serves each call in a task"
        self._arrived(task)

    def _require_room(self, caller: _Caller) -> None:
        limits = self._limits
        if self._calls >= limits.calls or caller.calls >= limits.calls // 2:
            raise self._too_many("calls", "calls are under way")
        if len(self._receiving) >= limits.receiving or caller.receiving >= limits.receiving // 2:
            raise self._too_many("receiving", "requests are being received")

    def _too_many(self, limit: str, what: str) -> ServiceError:
        self._limits_reached.labels(limit).inc()
        return ServiceError(
            Reason.TOO_MANY_CALLS,
            f"too many {what}, by this caller or by all; wait a moment, make fewer at once, and try again",
            metadata={"limit": limit},
            retry_after=RETRY_AFTER,
        )

    def _arrived(self, task: Task) -> None:
        if entry := self._receiving.pop(task, None):
            entry[0].receiving -= 1

    def _left(self, user_id: str, caller: _Caller, task: Task) -> None:
        self._arrived(task)
        self._calls -= 1
        caller.calls -= 1
        if not caller.calls and self._callers.get(user_id) is caller:
            del self._callers[user_id]

    def _give_up(self) -> None:
        """End the calls whose requests have been on their way for too long, and look again when the next is due."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for task, (_, since) in self._receiving.items():
            due = since + self._limits.receive_seconds
            if due > loop.time():
                self._timer = loop.call_at(due, self._give_up)
                return
            if not task.cancelling():
                self._limits_reached.labels("receive_timeout").inc()
                task.cancel()


def _authorization(metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
    """Return the header with the token. Raises ServiceError when there are several: who is meant by them is unclear."""
    headers = [value for key, value in metadata or () if key == "authorization"]
    if len(headers) > 1:
        raise ServiceError(Reason.TOKEN_INVALID, "there are several authorization headers; send one")
    return str(headers[0]) if headers else None


def _is_service(principal: Principal) -> bool:
    return principal.role_in("*") is Role.SERVICE
