"""Turns what a handler raises into a rich gRPC status. The only place that does."""

import logging

import grpc
from google.protobuf.message import Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context
from servicekit.rpc.interceptors.request_ids import HEADER, current_request_id

logger = logging.getLogger(__name__)


class ErrorTranslation(CallInterceptor):
    """Aborts with the status of a ServiceError; of an unknown error tells nothing but the request id.

    CancelledError passes through untouched: a handler that ends with a status after its cancellation leaks
    native memory in grpc.aio (grpc#43360).
    """

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call; abort with the right status when it raises."""
        try:
            return await call(request, context)
        except grpc.aio.AbortError:
            raise
        except ServiceError as error:
            if error.code is grpc.StatusCode.UNAVAILABLE:
                logger.warning("%s: %s", method, error, extra={"cause": repr(error.__cause__)})
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
        # abort() replaces the trailing metadata, so the request id is sent along again.
        trailing = (*(status.trailing_metadata or ()), (HEADER, current_request_id()))
        await context.abort(status.code, status.details, trailing)
        return None
