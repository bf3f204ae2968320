"""How a replica of executor_service claims runs, loses them, and finishes them."""

from collections.abc import Sequence

from executor_service.domain.execution import Execution, Lease, LeaseLost, Outcome, Status
from executor_service.store.claims import Claims
from executor_service.store.outcomes import Outcomes
from tests.support.executor import Bench


async def claim(bench: Bench, limit: int = 10, lease_seconds: float = 15) -> Sequence[Execution]:
    claimed = await Claims(bench.database).claim(owner=bench.owner, limit=limit, lease_seconds=lease_seconds)
    return claimed.executions


async def expire_leases(bench: Bench) -> None:
    await bench.rows(
        "UPDATE executor.executions SET lease_until = now() - interval '1 second' WHERE status = 'RUNNING'"
    )


async def finish(bench: Bench, lease: Lease) -> None:
    (end,) = await Outcomes(bench.database).finish([(lease, Outcome(Status.SUCCEEDED))])
    if isinstance(end, LeaseLost):
        raise end
