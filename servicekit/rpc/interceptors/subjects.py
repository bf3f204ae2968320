"""Names what a call is about in its log lines: the project, and the run where there is one."""

from collections.abc import Awaitable
from typing import Any

from google.protobuf.message import Message

from servicekit.rpc.interceptors.base import Context, Interceptor, rewrap, unwrap
from servicekit.telemetry import logs

FIELDS = ("project_id", "run_id")


class Subjects(Interceptor):
    """Stands inside of validation: what a request says about itself is not repeated before it was checked."""

    def wrap(self, handler: Any, method: str) -> Any:
        """Return the handler, with this around it when its requests, or the `job` in them, name one of FIELDS."""
        if handler.request_streaming:
            return handler
        serve = unwrap(handler)
        fields = handler.request_deserializer(b"").DESCRIPTOR.fields_by_name
        within = "job" if "job" in fields else ""
        if within:
            fields = fields[within].message_type.fields_by_name
        names = [name for name in FIELDS if name in fields]
        if not names:
            return handler

        def bind_and_serve(request: Any, context: Context) -> Awaitable[Message | None]:
            named = getattr(request, within) if within else request
            logs.bind(**{name: getattr(named, name) for name in names})
            return serve(request, context)

        return rewrap(handler, bind_and_serve, handler.request_deserializer)
