"""Turns exceptions into rich gRPC statuses. Nothing else does."""

import logging

import grpc
from google.protobuf.message import Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context
from servicekit.rpc.interceptors.request_ids import HEADER, current_request_id
from servicekit.telemetry.outages import Reminder

logger = logging.getLogger(__name__)


class ErrorTranslation(CallInterceptor):
    """Aborts a call with the status of its ServiceError. Of any other error the caller gets the request id only.

    CancelledError passes through: a handler that aborts after its cancellation leaks native memory in grpc.aio
    (grpc#43360).
    """

    def __init__(self) -> None:
        self._reminder = Reminder()

    async def intercept(self, proceed: Behaviour, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call; abort it with the error's status when it raises."""
        try:
            return await proceed(request, context)
        except grpc.aio.AbortError:
            raise
        except ServiceError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                level = self._reminder.level_for((method, error.reason))
                logger.log(level, "%s: %s", method, error, extra={"cause": repr(error.__cause__)})
            failure = error
        except Exception:
            logger.exception("%s failed", method)
            request_id = current_request_id()
            failure = ServiceError(
                Reason.INTERNAL_ERROR,
                f"something went wrong on our side; the log has the details under request id {request_id}",
                metadata={"request_id": request_id},
            )
        status = failure.to_status()
        # abort() replaces the trailing metadata, so the request id has to be in it again.
        trailing = (*(status.trailing_metadata or ()), (HEADER, current_request_id()))
        await context.abort(status.code, status.details, trailing)
        return None
