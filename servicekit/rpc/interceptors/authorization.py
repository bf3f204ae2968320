"""Checks whether the caller's role allows this call."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from servicekit.auth.principals import Role, current_principal
from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context

# The role that a method needs, or a function that derives it from the request.
Permissions = Mapping[str, Role | Callable[[Any], Role]]


class Authorization(CallInterceptor):
    """Checks the caller's role in the request's project against a table of "/package.Service/Method".

    A method that is missing in the table is refused to everyone. Authorization comes before validation, so it reads no
    more of a request than the project's id.
    """

    def __init__(self, permissions: Permissions) -> None:
        self._permissions = permissions

    def intercept(
        self, proceed: Behaviour, method: str, request: Message, context: Context
    ) -> Awaitable[Message | None]:
        """Serve the call if the caller's role allows it."""
        needed = self._permissions.get(method)
        if needed is None:
            raise ServiceError(Reason.ROLE_TOO_LOW, f"{method} is open to no role")
        role = needed if isinstance(needed, Role) else needed(request)
        project_id = getattr(request, "project_id", "*")
        if not project_id:
            raise ServiceError(Reason.VALIDATION_FAILED, "must name the project", field="project_id")
        current_principal().require(role, project_id)
        return proceed(request, context)
