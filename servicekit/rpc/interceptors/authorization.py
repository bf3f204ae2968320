"""Decides whether the caller may make this call."""

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from servicekit.auth.principals import Role, current_principal
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Call, CallInterceptor, Context

# The role a method needs, or how to find it out from the request.
Permissions = Mapping[str, Role | Callable[[Any], Role]]


class Authorization(CallInterceptor):
    """Checks the caller's role in the request's project against a table of "/package.Service/Method".

    A method that is not in the table is allowed to nobody. It stands before validation: of a request for a project
    that is none of the caller's nothing but the project's id is looked at.
    """

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call if it is allowed."""
        needed = self._permissions.get(method)
        if needed is None:
            raise ServiceError(Reason.ROLE_TOO_LOW, f"{method} is open to no role")
        role = needed if isinstance(needed, Role) else needed(request)
        project_id = getattr(request, "project_id", "*")
        if not project_id:
            raise ServiceError(Reason.VALIDATION_FAILED, "must name the project", field="project_id")
        current_principal().require(role, project_id)
        return await call(request, context)
