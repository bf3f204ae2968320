"""Logs and measures each call."""

import logging
import time

from google.protobuf.message import Message

from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context, status_name
from servicekit.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


class AccessLog(CallInterceptor):
    """Logs method, status code and duration of every call at DEBUG, and counts it in the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept(self, proceed: Behaviour, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call, then log and count it."""
        started = time.perf_counter()
        code = "CANCELLED"
        try:
            response = await proceed(request, context)
            code = "OK"
        except Exception:
            # ErrorTranslation, inside of this, has aborted the call with a code.
            code = status_name(context)
            raise
        else:
            return response
        finally:
            seconds = time.perf_counter() - started
            self._metrics.count_call(method, code, seconds)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("%s %s", method, code, extra={"milliseconds": round(seconds * 1000, 1)})
