"""JSON Web Tokens: the callers', verified once each, and the services' own.

Any caller can send any bytes as a token. Each leads to a principal or a ServiceError. Error messages are our own: those
of a library may quote the token, and a gRPC status cannot carry every text.
"""

import base64
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

import jwt

from servicekit.auth.keys import Key, PublicKeyFile, secret_key
from servicekit.auth.principals import Principal, Role
from servicekit.clock import Clock
from servicekit.errors import Reason, ServiceError

SERVICE_TOKEN_LIFETIME = timedelta(minutes=10)
MAX_LIFETIME = timedelta(days=30)  # tokens cannot be revoked
LEEWAY = 30.0  # seconds between the issuer's clock and ours
MAX_CHARACTERS = 32 * 1024  # of a token; enough for several hundred projects
MAX_SUBJECT = 255  # characters
CACHED_TOKENS = 4_096

_SERVICE: Final = {"*": Role.SERVICE.name}  # the claim `projects` of the services' own tokens
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
# Characters that no name may have: they break lines and terminals, or cannot be stored.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


_json = json.JSONDecoder(parse_constant=_no_constant)  # NaN and the infinities are no JSON


@dataclass(frozen=True, slots=True)
class Demands:
    """What a token must have besides its subject. None: anything is accepted."""

    audience: str | None = None  # `aud` is it, or contains it
    issuer: str | None = None  # `iss` is it
    max_lifetime: timedelta = MAX_LIFETIME  # from now, and from `iat`, to `exp`


class TokenAuthenticator:
    """AUTH_MODE=jwt.

    With a `key_file`, users' tokens must be signed by a key in it (RS256, ES256, EdDSA), and the HS256 `secrets` sign
    the services' tokens only. Without it, the secrets sign both. Verified tokens are cached until they expire or the
    keys in the file change.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        key_file: PublicKeyFile | None = None,
        demands: Demands | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = tuple(secret_key(secret) for secret in secrets)
        self._key_file = key_file
        self._demands = demands or Demands()
        self._now = now
        # By token: the principal, and the Unix time of the token's end. The key is not the whole header, or each
        # spelling of `Bearer` would have an entry of its own.
        self._cache: OrderedDict[str, tuple[Principal, float]] = OrderedDict()

    def authenticate(self, authorization: str | None) -> Principal:
        """Return the caller. Raises ServiceError (TOKEN_MISSING, TOKEN_EXPIRED, TOKEN_INVALID)."""
        if not authorization:
            raise ServiceError(Reason.TOKEN_MISSING, "send the metadata `authorization: Bearer <JWT>`")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ServiceError(Reason.TOKEN_INVALID, "the authorization metadata is not of the form `Bearer <JWT>`")
        now = self._now()
        if self._key_file and self._key_file.read_again(now):
            self._cache.clear()
        cached = self._cache.get(token)
        if cached is not None and now < cached[1]:
            return cached[0]
        token = token.strip(" ")
        claims = self._verified_claims(token)
        expires = _checked_times(claims, now, self._demands.max_lifetime)
        self._check_origin(claims)
        principal = _principal(claims, expires)
        self._cache[token] = principal, expires + LEEWAY
        if len(self._cache) > CACHED_TOKENS:
            self._cache.popitem(last=False)
        return principal

    def _verified_claims(self, token: str) -> dict[str, Any]:
        header, payload, signed, signature = _parts(token)
        if "crit" in header or "b64" in header:
            raise _invalid("its header asks for extensions (crit, b64), and this server has none")
        algorithm, key_id = header.get("alg"), header.get("kid")
        public_keys = self._key_file.keys if self._key_file else ()
        of_algorithm = [key for key in (*self._secrets, *public_keys) if key.algorithm == algorithm]
        if not of_algorithm:
            accepted = ", ".join(dict.fromkeys(key.algorithm for key in (*self._secrets, *public_keys)))
            raise _invalid(f"its algorithm (alg) is not accepted; accepted are {accepted}")
        candidates = [key for key in of_algorithm if key.key_id in (None, key_id)]
        if not candidates:
            raise _invalid("this server has no key of its key id (kid); does it have the issuer's newest keys?")
        if not _is_signed_by_any(candidates, signed, signature):
            raise _invalid("its signature is not of a key that this server accepts")
        claims = _object(payload, "its claims are")
        is_of_service = claims.get("projects") == _SERVICE
        if algorithm == "HS256" and public_keys and not is_of_service:
            raise _invalid("users' tokens must be signed by the configured public key")
        if algorithm != "HS256" and Role.SERVICE.name in _projects(claims).values():
            raise _invalid("the role SERVICE is the services' own")
        return claims

    def _check_origin(self, claims: Mapping[str, Any]) -> None:
        audience, issuer = self._demands.audience, self._demands.issuer
        if audience is not None:
            named = _required(claims, "aud")
            if named != audience and not (isinstance(named, list) and audience in named):
                raise _invalid(f"it is for another audience; the claim `aud` must be or contain {audience!r}")
        if issuer is not None and _required(claims, "iss") != issuer:
            raise _invalid(f"it is of another issuer; the claim `iss` must be {issuer!r}")


def _invalid(why: str) -> ServiceError:
    return ServiceError(Reason.TOKEN_INVALID, f"the token is not valid: {why}")


def _parts(token: str) -> tuple[dict[str, Any], bytes, bytes, bytes]:
    """Return a token's header, payload, what of it is signed, and the signature.

    PyJWT would split the token again for each key, in a Python loop over the characters: 1.3 ms for the longest token,
    from an unknown caller. It also raises more than it documents.
    """
    if len(token) > MAX_CHARACTERS:
        raise _invalid(f"it has {len(token):,} characters; {MAX_CHARACTERS:,} are accepted")
    try:
        signed, _, signature = token.encode("ascii").rpartition(b".")
        header, payload = signed.split(b".")
        parts = _decoded(header), _decoded(payload), _decoded(signature)
    except ValueError:  # so are UnicodeError and binascii.Error
        raise _invalid("it is not three parts in base64url, separated by dots") from None
    return _object(parts[0], "its header is"), parts[1], signed, parts[2]


def _decoded(part: bytes) -> bytes:
    padding = b"" if part.endswith(b"=") else b"=" * (-len(part) % 4)
    decoded = base64.b64decode(part + padding, altchars=b"-_", validate=True)
    # Accept one spelling only, besides the padding that some issuers write: each would be another cache entry.
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part.rstrip(b"="):
        raise ValueError
    return decoded


def _object(text: bytes, subject: str) -> dict[str, Any]:
    try:
        decoded = _json.decode(text.decode())
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        raise _invalid(f"{subject} not a JSON object")
    return decoded


def _is_signed_by_any(keys: Sequence[Key], signed: bytes, signature: bytes) -> bool:
    return any(key.verifies(signed, signature) for key in keys)


def _required(claims: Mapping[str, Any], name: str) -> Any:
    value = claims.get(name)
    if value is None:
        raise _invalid(f"the claim `{name}` is missing")
    return value


def _checked_times(claims: Mapping[str, Any], now: float, max_lifetime: timedelta) -> float:
    """Check `exp`, `nbf` and `iat`, and return `exp`."""
    expires = _time(claims, "exp")
    issued, begins = (_time(claims, name) if name in claims else now for name in ("iat", "nbf"))
    if expires + LEEWAY <= now:
        raise ServiceError(Reason.TOKEN_EXPIRED, "the token has expired; get a new one")
    for name, time_ in (("iat", issued), ("nbf", begins)):
        if time_ > now + LEEWAY:
            raise _invalid(f"it is not valid yet ({name}); is the clock of its issuer right, and that of this server?")
    longest = max_lifetime.total_seconds()
    if expires - min(issued, now) > longest + LEEWAY:
        raise _invalid(f"it is valid for too long; {longest:,.0f} s are accepted (AUTH_JWT_MAX_LIFETIME_SECONDS)")
    return expires


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = _required(claims, name)
    # A whole number may be too large for a float, and a bool is an int.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LAST_SECOND:
        raise _invalid(f"the claim `{name}` is no time (seconds since 1970, as a number)")
    return float(value)


def _principal(claims: Mapping[str, Any], expires: float) -> Principal:
    user_id = _required(claims, "sub")
    if not isinstance(user_id, str) or not 0 < len(user_id) <= MAX_SUBJECT or _UNPRINTABLE.search(user_id):
        raise _invalid(f"the claim `sub` must be a text of 1 to {MAX_SUBJECT} characters, without control characters")
    projects = _projects(claims)
    if any(_UNPRINTABLE.search(project) for project in projects):
        raise _invalid("the claim `projects` has a project id with control characters")
    try:
        return Principal(user_id, {project: Role[role] for project, role in projects.items()}, expires=expires)
    except (KeyError, TypeError):
        raise _invalid("the claim `projects` has a role other than OWNER, EDITOR, VIEWER") from None


def _projects(claims: Mapping[str, Any]) -> dict[str, Any]:
    projects = _required(claims, "projects")
    if not isinstance(projects, dict):
        raise _invalid("the claim `projects` must map project ids to roles")
    return projects


class ServiceTokens:
    """Issues the token that a service calls the other one with, and renews it before it expires."""

    def __init__(self, secret: str, *, service: str, clock: Clock, demands: Demands | None = None) -> None:
        self._secret = secret
        self._service = service
        self._clock = clock
        self._demands = demands or Demands()
        self._token = ""
        self._renew_at = clock.now()

    def token(self) -> str:
        """Return a token that is valid for at least half of SERVICE_TOKEN_LIFETIME."""
        now = self._clock.now()
        if not self._token or now >= self._renew_at:
            claims = {"sub": self._service, "iat": now, "exp": now + SERVICE_TOKEN_LIFETIME, "projects": _SERVICE}
            origin = {"aud": self._demands.audience, "iss": self._demands.issuer}
            claims |= {name: value for name, value in origin.items() if value is not None}
            self._token = jwt.encode(claims, self._secret, algorithm="HS256")
            self._renew_at = now + SERVICE_TOKEN_LIFETIME / 2
        return self._token
