"""Whether a service can do its work now: what its health check says, and what calls get while it cannot."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from google.protobuf.message import Message

from servicekit.background.tasks import Ticker
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context
from servicekit.telemetry.outages import Outage

INTERVAL = 5.0  # seconds between two looks while the service can work; each is a statement
RECOVERY_INTERVAL = 1.0  # seconds at most while it cannot

# Returns what keeps the service from its work; None: nothing does.
Check = Callable[[], Awaitable[ServiceError | None]]


class Readiness(Ticker):
    """Asks `check`, and hands each change on: `on_change` gets whether the service can work.

    `parts` are what the service works without for a time: `on_part` gets the name of each, and whether it is there.
    """

    def __init__(
        self,
        check: Check,
        on_change: Callable[[bool], Awaitable[None]],
        *,
        parts: Mapping[str, Sequence[Outage]],
        on_part: Callable[[str, bool], Awaitable[None]],
        interval: float = INTERVAL,
    ) -> None:
        super().__init__(interval)
        self._check = check
        self._on_change = on_change
        self._parts = parts
        self._on_part = on_part
        self._is_ready: bool | None = None
        self.refusal: ServiceError | None = None  # of every call

    async def tick(self) -> float | None:
        """Look once; return the seconds until the next look, None: `interval`."""
        problem = await self._check()
        for name, part in self._parts.items():
            await self._on_part(name, not any(outage.reason for outage in part))
        # While the database is away a call that needs none, or finds it back, goes through.
        self.refusal = problem if problem and problem.reason is Reason.SCHEMA_MISMATCH else None
        if self._is_ready is not (problem is None):
            self._is_ready = problem is None
            await self._on_change(self._is_ready)
        return None if problem is None else min(RECOVERY_INTERVAL, self.interval or RECOVERY_INTERVAL)


class Refusal(CallInterceptor):
    """Refuses every call while the service is not ready for any."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def intercept(
        self, proceed: Behaviour, method: str, request: Message, context: Context
    ) -> Awaitable[Message | None]:
        """Serve the call, unless all are refused."""
        if refusal := self._readiness.refusal:
            raise ServiceError(refusal.reason, refusal.message, retry_after=refusal.retry_after)
        return proceed(request, context)
