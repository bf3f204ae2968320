"""One log line and one measurement for each call."""

import logging
import time

import grpc
from google.protobuf.message import Message

from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context
from servicekit.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class AccessLog(CallInterceptor):
    """Logs method, status code and time of every call, and counts them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call, then say how it went."""
        started = time.perf_counter()
        code = "CANCELLED"
        try:
            response = await call(request, context)
            code = "OK"
        except Exception:
            # The error interceptor has set the code and aborted.
            status = context.code()
            code = status.name if isinstance(status, grpc.StatusCode) else grpc.StatusCode(status).name
            raise
        else:
            return response
        finally:
            seconds = time.perf_counter() - started
            self._metrics.count_call(method, code, seconds)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("%s %s", method, code, extra={"milliseconds": round(seconds * 1000, 1)})
