"""The caller of a call, and what its roles allow."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from servicekit.errors import Reason, ServiceError


class Role(IntEnum):
    """What a caller may do in a project; each role may do what the ones before it may.

    SERVICE is not part of that order: the two services call each other with it. It may read everything and call the
    methods for services, but do nothing else that an OWNER may.
    """

    VIEWER = 1
    EDITOR = 2
    OWNER = 3
    SERVICE = 100


@dataclass(frozen=True)
class Principal:
    """A caller, as its token describes it."""

    user_id: str
    roles: Mapping[str, Role] = field(default_factory=dict)  # by project id; "*": every project
    unrestricted: bool = False  # AUTH_MODE=disabled
    expires: float | None = None  # Unix time of the token's end; None: it has none

    def role_in(self, project_id: str) -> Role | None:
        """Return the caller's role in a project, or None."""
        return self.roles.get(project_id, self.roles.get("*"))

    @property
    def is_platform(self) -> bool:
        """Whether the caller speaks for the platform: OWNER of every project ("*"), or a service."""
        return self.unrestricted or self.roles.get("*") in (Role.OWNER, Role.SERVICE)

    def require(self, needed: Role, project_id: str) -> None:
        """Raise ServiceError (PROJECT_ACCESS_DENIED, ROLE_TOO_LOW) unless the caller may act as `needed`."""
        if self.unrestricted:
            return
        role = self.role_in(project_id)
        if needed is Role.SERVICE and role is not Role.SERVICE:
            raise ServiceError(
                Reason.ROLE_TOO_LOW,
                "this method is for the services themselves (role SERVICE), and the token is not of one",
                metadata={"required_role": needed.name} | ({"role": role.name} if role else {}),
            )
        if role is None:
            raise ServiceError(
                Reason.PROJECT_ACCESS_DENIED,
                f"the token gives no access to project {project_id!r}; ask its owner for one that does",
                metadata={"project_id": project_id},
            )
        # A service may read (VIEWER) and call the methods for services. Roles of people are ordered.
        allowed = needed in (Role.VIEWER, Role.SERVICE) if role is Role.SERVICE else role >= needed
        if not allowed:
            raise ServiceError(
                Reason.ROLE_TOO_LOW,
                f"this needs the role {needed.name}, and the token has {role.name}",
                metadata={"required_role": needed.name, "role": role.name},
            )


_principal: ContextVar[Principal] = ContextVar("principal")


def current_principal() -> Principal:
    """Return the caller of this task's call."""
    return _principal.get()


def set_principal(principal: Principal) -> None:
    """Set the caller of this task's call; admission does."""
    _principal.set(principal)


class Authenticator(Protocol):
    """Turns a call's `authorization` header into a principal."""

    def authenticate(self, authorization: str | None) -> Principal:
        """Return the caller. Raises ServiceError (TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID)."""
        ...


class NoAuthentication:
    """AUTH_MODE=disabled: every caller may do everything. Only for loopback listeners."""

    def authenticate(self, authorization: str | None) -> Principal:
        """Return a principal without restrictions."""
        return Principal("anonymous", unrestricted=True)
