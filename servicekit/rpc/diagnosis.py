"""Checks of a running service: whether it serves, and takes the tokens that it should."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc

from servicekit.auth.keys import PublicKeyFile
from servicekit.auth.tokens import ServiceTokens, TokenAuthenticator
from servicekit.clock import SystemClock
from servicekit.config.settings import ServiceSettings
from servicekit.diagnosis import Finding, failed, ok, skipped
from servicekit.errors import ServiceError
from servicekit.health_probe import why_not_serving
from servicekit.rpc.channel import channel_credentials, open_channel
from servicekit.telemetry.outages import first_line

CALL_TIMEOUT = 5.0  # seconds
TOKEN_VARIABLE = "PLAYBOOK_RUNS_TOKEN"  # noqa: S105  # its name

Read = Callable[[grpc.aio.Channel, Any], Awaitable[object]]


async def service_findings(settings: ServiceSettings, *, service: str, name: str, read: Read) -> list[Finding]:
    """Look at the process of `name` that listens where `settings` say. `read` makes a harmless call with metadata."""
    serves, takes = f"{service} service", f"{service} token"
    why = await asyncio.to_thread(
        why_not_serving, _reachable(settings.listen), CALL_TIMEOUT, channel_credentials(settings)
    )
    if why:
        advice = f"start {name}, or correct {settings.listen_variable}; its log says what keeps it from serving"
        return [failed(serves, why, advice), skipped(takes, "the service does not serve")]
    return [ok(serves, f"{settings.listen} serves"), await _token(takes, settings, name, read)]


async def _token(check: str, settings: ServiceSettings, name: str, read: Read) -> Finding:
    if settings.auth_mode == "disabled":
        return skipped(check, "AUTH_MODE=disabled: nobody needs one")
    tokens = ServiceTokens(
        settings.jwt_secrets[0], service="doctor", clock=SystemClock(), demands=settings.token_demands
    )
    channel = open_channel(_reachable(settings.listen), settings, own_connection=True)
    try:
        await read(channel, (("authorization", f"Bearer {tokens.token()}"),))
    except grpc.aio.AioRpcError as error:
        why = first_line(Exception(f"{error.code().name}: {error.details()}"))
        advice = f"give {name} and this command the same AUTH_JWT_SECRET, AUTH_JWT_AUDIENCE, AUTH_JWT_ISSUER, and time"
        return failed(check, f"the service refuses a token that these settings make: {why}", advice)
    finally:
        await channel.close()
    return _user_token(check, settings)


def _user_token(check: str, settings: ServiceSettings) -> Finding:
    """Look at the caller's own token, if there is one."""
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        return ok(check, "the service takes tokens that these settings make")
    file = settings.auth_jwt_public_key_file
    try:
        principal = TokenAuthenticator(
            settings.jwt_secrets, PublicKeyFile(file) if file else None, settings.token_demands
        ).authenticate(f"Bearer {token}")
    except ServiceError as error:
        return failed(check, f"{TOKEN_VARIABLE}: {error}", "get a new one: see Tokens in the README")
    until = datetime.fromtimestamp(principal.expires, UTC) if principal.expires else None
    return ok(check, f"{TOKEN_VARIABLE} is valid until {until:%Y-%m-%d %H:%M} UTC" if until else "it is valid")


def _reachable(address: str) -> str:
    """Return where a listener can be called from its own machine."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("0.0.0.0", "[::]") else address  # noqa: S104
