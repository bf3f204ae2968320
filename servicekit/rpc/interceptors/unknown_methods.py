"""Answers calls of methods that this server does not have in the shape of all other errors."""

from typing import Any

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Context, unread
from servicekit.rpc.interceptors.request_ids import HEADER, current_request_id


def refusal(method: str) -> Any:
    """Return a handler that refuses `method` with METHOD_UNKNOWN; gRPC by itself says so without ErrorInfo.

    Nothing stands around it, so that made-up names reach neither the measurements nor any table by method.
    """

    async def refuse(context: Context) -> None:
        status = ServiceError(
            Reason.METHOD_UNKNOWN,
            f"this server has no method {method}; gRPC reflection lists those it has",
            metadata={"method": method},
        ).to_status()
        trailing = (*(status.trailing_metadata or ()), (HEADER, current_request_id()))
        await context.abort(status.code, status.details, trailing)

    return unread(refuse)
