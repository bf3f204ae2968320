"""Who is calling and what they may do: JSON Web Tokens, roles, and the services' own tokens."""

import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol

import jwt

from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError

SERVICE_TOKEN_LIFETIME = timedelta(minutes=10)
PUBLIC_KEY_ALGORITHMS = ["RS256", "ES256", "EdDSA"]
KNOWN_TOKENS = 4_096  # tokens whose verification is remembered


class Role(IntEnum):
    """What a caller may do in a project; each role may do what the ones before it may.

    SERVICE stands apart: it is what the two services call each other with. It reads everything and may call
    what only a service may, but is no OWNER.
    """

    VIEWER = 1
    EDITOR = 2
    OWNER = 3
    SERVICE = 100


@dataclass(frozen=True)
class Principal:
    """A caller, as the token says."""

    user_id: str
    roles: Mapping[str, Role] = field(default_factory=dict)  # by project id; "*": every project
    unrestricted: bool = False  # AUTH_MODE=disabled

    def role_in(self, project_id: str) -> Role | None:
        """Return the caller's role in a project, or None."""
        return self.roles.get(project_id, self.roles.get("*"))

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
        # A service may read (VIEWER) and do what only services do; people's roles are a ladder.
        allowed = needed in (Role.VIEWER, Role.SERVICE) if role is Role.SERVICE else role >= needed
        if not allowed:
            raise ServiceError(
                Reason.ROLE_TOO_LOW,
                f"this needs the role {needed.name}, and the token has {role.name}",
                metadata={"required_role": needed.name, "role": role.name},
            )


_principal: ContextVar[Principal] = ContextVar("principal")


def current_principal() -> Principal:
    """Return who makes the call that is being served."""
    return _principal.get()


def set_principal(principal: Principal) -> None:
    """Set who makes the call that is being served; for the authentication interceptor."""
    _principal.set(principal)


class Authenticator(Protocol):
    """Turns a call's `authorization` header into a principal."""

    def authenticate(self, authorization: str | None) -> Principal:
        """Return the caller. Raises ServiceError (TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID)."""
        ...


class NoAuthentication:
    """AUTH_MODE=disabled: everybody is everything. Only for loopback listeners."""

    def authenticate(self, authorization: str | None) -> Principal:
        """Return the principal that may do everything people and services may."""
        return Principal("anonymous", unrestricted=True)


class TokenAuthenticator:
    """AUTH_MODE=jwt.

    With `public_keys` users' tokens are signed by those (RS256, ES256, EdDSA), and the HS256 `secret` signs the
    services' tokens only. Without, the secret signs both. The key decides the algorithms, never the token.
    A token that was found good is good until it expires, so it is verified once and then remembered.
    """

    def __init__(self, secret: str, public_keys: Mapping[str | None, Any] | None = None) -> None:
        self._secret = secret
        self._public_keys = public_keys or {}
        # By the whole header: the principal, and the Unix time up to which the token is valid.
        self._known: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def authenticate(self, authorization: str | None) -> Principal:
        """Return the caller. Raises ServiceError (TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID)."""
        known = self._known.get(authorization or "")
        if known is not None and time.time() < known[1]:
            return known[0]
        scheme, _, token = (authorization or "").partition(" ")
        if not authorization:
            raise ServiceError(Reason.TOKEN_MISSING, "send the metadata `authorization: Bearer <JWT>`")
        if scheme.lower() != "bearer" or not token:
            raise ServiceError(Reason.TOKEN_INVALID, "the authorization metadata is not of the form `Bearer <JWT>`")
        try:
            claims = self._verified_claims(token.strip())
            principal = self._principal(claims)
        except jwt.ExpiredSignatureError as error:
            raise ServiceError(Reason.TOKEN_EXPIRED, "the token has expired; get a new one") from error
        except (jwt.PyJWTError, ValueError, TypeError, KeyError) as error:
            raise ServiceError(Reason.TOKEN_INVALID, f"the token is not valid: {error}") from error
        self._known[authorization] = principal, float(claims["exp"])
        if len(self._known) > KNOWN_TOKENS:
            self._known.popitem(last=False)
        return principal

    def _verified_claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        require: Any = {"require": ["sub", "exp"]}
        if header.get("alg") == "HS256":
            claims: dict[str, Any] = jwt.decode(token, self._secret, algorithms=["HS256"], options=require)
            if self._public_keys and claims.get("projects") != {"*": Role.SERVICE.name}:
                raise ValueError("users' tokens must be signed by the configured public key")
            return claims
        key = self._public_keys.get(header.get("kid"), self._public_keys.get(None))
        if key is None:
            raise ValueError("no key is configured for its algorithm and kid")
        claims = jwt.decode(token, key, algorithms=PUBLIC_KEY_ALGORITHMS, options=require)
        if Role.SERVICE.name in _projects(claims).values():
            raise ValueError("the role SERVICE is the services' own")
        return claims

    def _principal(self, claims: dict[str, Any]) -> Principal:
        projects = _projects(claims)
        unknown = set(projects.values()) - set(Role.__members__)
        if unknown:
            raise ValueError("the claim `projects` has a role other than OWNER, EDITOR, VIEWER")
        user_id = str(claims["sub"])
        user_id.encode()  # raises ValueError for half a character, which JSON can say and nothing can store
        return Principal(user_id, {project: Role[role] for project, role in projects.items()})


def _projects(claims: dict[str, Any]) -> dict[str, Any]:
    projects = claims.get("projects")
    if not isinstance(projects, dict):
        raise ValueError("the claim `projects` must map project ids to roles")  # noqa: TRY004
    return projects


def load_public_keys(file: Path) -> dict[str | None, Any]:
    """Read a PEM public key or a JWKS file; return the keys by key id (None: no id). Raises ValueError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" in content:
        raise ValueError(f"{file} has a certificate; the public key in it is wanted: openssl x509 -pubkey -noout")
    try:
        if content.lstrip().startswith(b"{"):
            keys = jwt.PyJWKSet.from_dict(json.loads(content)).keys
            return {key.key_id: key.key for key in keys}
        return {None: load_pem_public_key(content)}
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{file} has no PEM public key (-----BEGIN PUBLIC KEY-----) and no JWKS") from error


class ServiceTokens:
    """Makes the token a service calls the other one with; renewed before it expires."""

    def __init__(self, secret: str, *, service: str, clock: Clock) -> None:
        self._secret = secret
        self._service = service
        self._clock = clock
        self._token = ""
        self._renew_at = clock.now()

    def token(self) -> str:
        """Return a token that is valid for minutes to come."""
        now = self._clock.now()
        if not self._token or now >= self._renew_at:
            claims = {"sub": self._service, "exp": now + SERVICE_TOKEN_LIFETIME, "projects": {"*": Role.SERVICE.name}}
            self._token = jwt.encode(claims, self._secret, algorithm="HS256")
            self._renew_at = now + SERVICE_TOKEN_LIFETIME / 2
        return self._token
