"""Every call has an id: the caller's `x-request-id`, or a new one. It is in the answer and in every log line."""

import os
import re

from google.protobuf.message import Message

from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context
from servicekit.telemetry import logs

HEADER = "x-request-id"
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestIds(CallInterceptor):
    """Binds the request's id for the logs and sends it back."""

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call under its id."""
        request_id = request_id_of(context)
        logs.bind(request_id=request_id)
        context.set_trailing_metadata(((HEADER, request_id),))
        return await call(request, context)


def request_id_of(context: Context) -> str:
    """Return the id the caller gave this call, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == HEADER and _ACCEPTABLE.fullmatch(str(value)):
            return str(value)
    return os.urandom(16).hex()


def current_request_id() -> str:
    """Return the id of the call that is being served, or ""."""
    return logs.bound("request_id")
