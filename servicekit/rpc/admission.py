"""Admission: decides by a call's headers whether to serve it, before its request is read.

HTTP/2 flow control keeps an unread request at 64 kB. So an unauthenticated caller takes up no more memory than
that for each stream, however large its requests are.
"""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from servicekit.auth.principals import Authenticator, NoAuthentication, Principal, Role, set_principal
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.limits import Limits
from servicekit.telemetry.metrics import Metrics

RETRY_AFTER = timedelta(seconds=1)

Task = asyncio.Task[Any]


class _Caller:
    """What one caller has in flight."""

    __slots__ = ("calls", "request_bytes", "user_id", "watches")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.calls = 0  # watches included
        self.watches = 0
        self.request_bytes = 0


class _Call:
    """A call in flight. Its request counts as the largest possible one until it has arrived."""

    __slots__ = ("caller", "is_watch", "request_bytes", "started", "task")

    def __init__(self, task: Task, caller: _Caller, is_watch: bool, request_bytes: int, started: float) -> None:
        self.task = task
        self.caller = caller
        self.is_watch = is_watch  # it streams answers, and may go on for as long as its caller wants
        self.request_bytes = request_bytes
        self.started = started  # by the loop's clock


_current: ContextVar[_Call] = ContextVar("call")


class Admission:
    """Admits authenticated calls within `limits`: `admit` each, report it `received`, and `release` it.

    All three run in the task of the call. A request that has not arrived within `limits.receive_seconds` ends its call.
    The services' own calls are never refused: they share the secret that signs all tokens.
    """

    KIND = "authenticated"  # of its calls, in the metrics

    def __init__(self, authenticator: Authenticator, limits: Limits, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._limits_reached = metrics.limits_reached
        metrics.calls_in_flight.labels(self.KIND).set_function(lambda: len(self._calls))
        # Read at every call.
        self._max_request_bytes = limits.request_bytes
        self._max_total_bytes = limits.total_request_bytes
        self._max_calls_of_caller = min(limits.calls_per_caller, limits.calls // 2)
        self._callers: dict[str, _Caller] = {}  # by user id
        # Sets that keep their order, the oldest first.
        self._calls: dict[_Call, None] = {}
        self._receiving: dict[_Call, None] = {}
        self._total_bytes = 0
        self._watches = 0
        self._timer: asyncio.TimerHandle | None = None
        self._aborted: set[Task] = set()  # by us; their callers still wait for an answer

    def admit(self, metadata: Sequence[tuple[str, str | bytes]] | None, *, is_watch: bool = False) -> None:
        """Authenticate the call of this task, and count it. `is_watch`: it streams answers.

        Raises ServiceError: TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID, TOO_MANY_CALLS.
        """
        principal = self._authenticator.authenticate(_authorization(metadata))
        set_principal(principal)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "gRPC serves each call in a task"
        caller = self._callers.get(principal.user_id) or _Caller(principal.user_id)
        if (self._full(caller, is_watch) or self._has_too_many_bytes(caller)) and not _is_service(principal):
            self._release_cancelled()
            self._require_capacity(caller, is_watch)
        self._callers[principal.user_id] = caller
        call = _Call(task, caller, is_watch, self._max_request_bytes, loop.time())
        _current.set(call)
        self._calls[call] = self._receiving[call] = None
        self._total_bytes += call.request_bytes
        caller.calls += 1
        if is_watch:
            self._watches += 1
            caller.watches += 1
        caller.request_bytes += call.request_bytes
        if self._timer is None:
            self._timer = loop.call_later(self._limits.receive_seconds, self._abort_slow_requests)

    def received(self, request_bytes: int) -> None:
        """Note that the request of this task's call has arrived. From now on it counts with its own size."""
        call = _current.get()
        self._receiving.pop(call, None)
        if call in self._calls:
            self._total_bytes += request_bytes - call.request_bytes
            call.caller.request_bytes += request_bytes - call.request_bytes
            call.request_bytes = request_bytes

    def release(self) -> None:
        """Stop counting this task's call, which has been answered.

        A callback of the task could do it, but would cost every call another turn of the event loop. A call that is
        cancelled before its request has arrived is never served; it is released when capacity is short or its time is
        up.
        """
        self._release(_current.get())

    def abort_error(self) -> ServiceError | None:
        """Return the error to answer this task's cancelled call with; None: its caller cancelled it.

        Without an answer gRPC goes on receiving a stream of requests.
        """
        task = _current.get().task
        if task not in self._aborted or task.uncancel():
            return None
        return self._too_many("ended", "calls or requests are under way for too long")

    def _abort(self, call: _Call) -> None:
        self._aborted.add(call.task)
        call.task.add_done_callback(self._aborted.discard)
        call.task.add_done_callback(lambda _: self._release(call))
        call.task.cancel()

    def _require_capacity(self, caller: _Caller, is_watch: bool) -> None:
        """Raise ServiceError (TOO_MANY_CALLS) when there is no capacity for another call of `caller`."""
        if limit := self._full(caller, is_watch):
            what = "watches" if limit.startswith("watches") else "calls"
            raise self._too_many(limit, f"{what} are under way")
        if self._has_too_many_bytes(caller):
            raise self._too_many("receiving", "requests are being received, or are large and not answered yet")

    def _full(self, caller: _Caller, is_watch: bool) -> str | None:
        """Return the limit on calls that leaves no room for another one, or None."""
        limits = self._limits
        if len(self._calls) >= limits.calls:
            return "calls"
        if caller.calls >= self._max_calls_of_caller:
            return "calls_per_caller"
        if not is_watch:
            return None
        if self._watches >= limits.watches:
            return "watches"
        if caller.watches >= min(limits.watches_per_caller, limits.watches // 2):
            return "watches_per_caller"
        return None

    def _has_too_many_bytes(self, caller: _Caller) -> bool:
        limit, one_more = self._max_total_bytes, self._max_request_bytes
        return self._total_bytes + one_more > limit or caller.request_bytes + one_more > limit // 2

    def _too_many(self, limit: str, what: str) -> ServiceError:
        self._limits_reached.labels(limit).inc()
        return ServiceError(
            Reason.TOO_MANY_CALLS,
            f"too many {what}, by this caller or by all; wait a moment, make fewer at once, and try again",
            metadata={"limit": limit},
            retry_after=RETRY_AFTER,
        )

    def _release_cancelled(self) -> None:
        """Release the calls that ended before their requests had arrived."""
        for call in [call for call in self._receiving if call.task.done()]:
            self._release(call)

    def _release(self, call: _Call) -> None:
        if call not in self._calls:
            return  # it was aborted, and released then
        del self._calls[call]
        self._receiving.pop(call, None)
        caller = call.caller
        self._total_bytes -= call.request_bytes
        caller.calls -= 1
        if call.is_watch:
            self._watches -= 1
            caller.watches -= 1
        caller.request_bytes -= call.request_bytes
        if not caller.calls:
            del self._callers[caller.user_id]

    def _abort_slow_requests(self) -> None:
        """Abort the calls whose requests take too long to arrive, and set the timer for the next one."""
        loop = asyncio.get_running_loop()
        self._timer = None
        self._release_cancelled()
        for call in self._receiving:
            due = call.started + self._limits.receive_seconds
            if due > loop.time():
                self._timer = loop.call_at(due, self._abort_slow_requests)
                return
            if not call.task.cancelling():
                self._limits_reached.labels("receive_timeout").inc()
                self._abort(call)


class OpenAdmission(Admission):
    """Admits calls without authentication: health checks and reflection.

    All callers count as one. To refuse a call here could fail a liveness probe while somebody else uses up the limits.
    So a new call aborts the oldest one instead: a probe is answered within milliseconds.
    """

    KIND = "open"

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        super().__init__(NoAuthentication(), limits, metrics)

    def _require_capacity(self, caller: _Caller, is_watch: bool) -> None:
        while self._full(caller, is_watch):
            self._replace(next(iter(self._calls)))
        while self._has_too_many_bytes(caller):
            self._replace(next(iter(self._receiving or self._calls)))

    def _replace(self, call: _Call) -> None:
        self._limits_reached.labels("open_calls").inc()
        self._abort(call)
        self._release(call)


def _authorization(metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
    """Return the authorization header. Raises ServiceError when there are several: which one counts is ambiguous."""
    headers = [value for key, value in metadata or () if key == "authorization"]
    if len(headers) > 1:
        raise ServiceError(Reason.TOKEN_INVALID, "there are several authorization headers; send one")
    return str(headers[0]) if headers else None


def _is_service(principal: Principal) -> bool:
    return principal.role_in("*") is Role.SERVICE
