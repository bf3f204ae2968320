"""Refuses calls of unknown methods with an ErrorInfo, like every other error; gRPC's own answer has none."""

from typing import Any

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Context, answer_unread
from servicekit.rpc.interceptors.request_ids import HEADER, current_request_id


def unknown_method(method: str) -> Any:
    """Return a handler that refuses `method` with METHOD_UNKNOWN.

    It has no interceptors: callers can make up any number of names, and each would become a label of the metrics.
    """

    async def refuse(context: Context) -> None:
        status = ServiceError(
            Reason.METHOD_UNKNOWN,
            f"this server has no method {method}; gRPC reflection lists those it has",
            metadata={"method": method},
        ).to_status()
        trailing = (*(status.trailing_metadata or ()), (HEADER, current_request_id()))
        await context.abort(status.code, status.details, trailing)

    return answer_unread(refuse)
