"""Who may make a server receive a request: decided by a call's headers, before a byte of the request is read.

Until it is read, HTTP/2 holds 64 kB of it at most. So strangers cannot make the process hold more than that for each
stream, however large their requests are or claim to be.
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
    """What one caller has under way."""

    __slots__ = ("calls", "held", "user_id")

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.calls = 0
        self.held = 0  # bytes


class _Call:
    """A call under way, and how many bytes its request may take: the most there are until it has arrived."""

    __slots__ = ("caller", "size", "started", "task")

    def __init__(self, task: Task, caller: _Caller, size: int, started: float) -> None:
        self.task = task
        self.caller = caller
        self.size = size
        self.started = started  # by the loop's clock


_current: ContextVar[_Call] = ContextVar("call")


class Admission:
    """Lets calls in: of known callers, and of each no more than `limits` say.

    The services' own calls are not counted: whoever can sign a token of theirs can do worse. A request that has not
    arrived after `limits.receive_seconds` is not waited for any longer. Use it in the task of the call.
    """

    def __init__(self, authenticator: Authenticator, limits: Limits, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._largest = limits.request_bytes
        self._held_most = limits.held_bytes
        self._limits_reached = metrics.limits_reached
        self._callers: dict[str, _Caller] = {}  # by user id
        # Sets that keep their order, the oldest first.
        self._calls: dict[_Call, None] = {}
        self._receiving: dict[_Call, None] = {}
        self._held = 0  # bytes
        self._timer: asyncio.TimerHandle | None = None
        self._ended: set[Task] = set()  # by us, while their callers still wait

    def admit(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> None:
        """Let the call of this task in, in the name of its principal.

        Raises ServiceError: TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID, TOO_MANY_CALLS.
        """
        principal = self._authenticator.authenticate(_authorization(metadata))
        set_principal(principal)
        task = asyncio.current_task()
        assert task is not None, "gRPC serves each call in a task"
        caller = self._callers.get(principal.user_id) or _Caller(principal.user_id)
        if self._is_crowded(caller) and not _is_service(principal):
            self._forget_gone()
            self._require_room(caller)
        self._callers[principal.user_id] = caller
        loop = asyncio.get_running_loop()
        size = self._largest
        call = _Call(task, caller, size, loop.time())
        _current.set(call)
        self._calls[call] = self._receiving[call] = None
        self._held += size
        caller.calls += 1
        caller.held += size
        if self._timer is None:
            self._timer = loop.call_later(self._limits.receive_seconds, self._give_up)

    def received(self, size: int) -> None:
        """Note that the request of this task's call has arrived, and has `size` bytes. They are held until it ends."""
        call = _current.get()
        self._receiving.pop(call, None)
        if call in self._calls:
            self._held += size - call.size
            call.caller.held += size - call.size
            call.size = size

    def left(self) -> None:
        """Note that this task's call has been answered.

        Not by a callback of the task: each would cost every call another turn of the event loop. A call whose request
        never arrives does not come here; it is forgotten when places are short, or its time is up.
        """
        self._forget(_current.get())

    def ending(self) -> ServiceError | None:
        """Return what to answer the cancelled call of this task with; None: its caller has cancelled it.

        Without an answer gRPC goes on receiving what comes on a stream of requests.
        """
        task = _current.get().task
        if task not in self._ended or task.uncancel():
            return None
        return self._too_many("ended", "calls or requests are under way for too long")

    def _cancel(self, call: _Call) -> None:
        self._ended.add(call.task)
        call.task.add_done_callback(self._ended.discard)
        call.task.add_done_callback(lambda _: self._forget(call))
        call.task.cancel()

    def _is_crowded(self, caller: _Caller) -> bool:
        return self._has_too_many_calls(caller) or self._holds_too_much(caller)

    def _require_room(self, caller: _Caller) -> None:
        if self._has_too_many_calls(caller):
            raise self._too_many("calls", "calls are under way")
        if self._holds_too_much(caller):
            raise self._too_many("receiving", "requests are being received, or are large and not answered yet")

    def _has_too_many_calls(self, caller: _Caller) -> bool:
        most = self._limits.calls
        return len(self._calls) >= most or caller.calls >= most // 2

    def _holds_too_much(self, caller: _Caller) -> bool:
        most, one_more = self._held_most, self._largest
        return self._held + one_more > most or caller.held + one_more > most // 2

    def _too_many(self, limit: str, what: str) -> ServiceError:
        self._limits_reached.labels(limit).inc()
        return ServiceError(
            Reason.TOO_MANY_CALLS,
            f"too many {what}, by this caller or by all; wait a moment, make fewer at once, and try again",
            metadata={"limit": limit},
            retry_after=RETRY_AFTER,
        )

    def _forget_gone(self) -> None:
        """Forget calls whose callers left before their requests had arrived."""
        for call in [call for call in self._receiving if call.task.done()]:
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        if call not in self._calls:
            return  # it was ended, and counts no longer
        del self._calls[call]
        self._receiving.pop(call, None)
        caller = call.caller
        self._held -= call.size
        caller.calls -= 1
        caller.held -= call.size
        if not caller.calls:
            del self._callers[caller.user_id]

    def _give_up(self) -> None:
        """End the calls whose requests have been on their way for too long, and look again when the next is due."""
        loop = asyncio.get_running_loop()
        self._timer = None
        self._forget_gone()
        for call in self._receiving:
            due = call.started + self._limits.receive_seconds
            if due > loop.time():
                self._timer = loop.call_at(due, self._give_up)
                return
            if not call.task.cancelling():
                self._limits_reached.labels("receive_timeout").inc()
                self._cancel(call)


class OpenAdmission(Admission):
    """Lets calls of strangers in, who count as one caller.

    They cannot be told apart, so a refusal would hit the probe that asks whether this server lives while somebody else
    keeps all places. Instead the oldest call ends: a probe has its answer within milliseconds.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        super().__init__(NoAuthentication(), limits, metrics)

    def _require_room(self, caller: _Caller) -> None:
        while self._has_too_many_calls(caller):
            self._end(next(iter(self._calls)))
        while self._holds_too_much(caller):
            self._end(next(iter(self._receiving or self._calls)))

    def _end(self, call: _Call) -> None:
        self._limits_reached.labels("open_calls").inc()
        self._cancel(call)
        self._forget(call)


def _authorization(metadata: Sequence[tuple[str, str | bytes]] | None) -> str | None:
    """Return the header with the token. Raises ServiceError when there are several: who is meant by them is unclear."""
    headers = [value for key, value in metadata or () if key == "authorization"]
    if len(headers) > 1:
        raise ServiceError(Reason.TOKEN_INVALID, "there are several authorization headers; send one")
    return str(headers[0]) if headers else None


def _is_service(principal: Principal) -> bool:
    return principal.role_in("*") is Role.SERVICE
