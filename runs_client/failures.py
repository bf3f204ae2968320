"""What goes wrong at the command line, in one line for a person."""

import re

import grpc

from runs_client.errors import ServiceCallError
from servicekit.telemetry.printable import printable

_TLS = re.compile(r"handshake|ssl|certificate", re.IGNORECASE)
_UNHEALTHY = re.compile(r"not_serving|unhealthy|health", re.IGNORECASE)
_HANGS_UP = re.compile(r"socket closed|reset by peer|broken pipe", re.IGNORECASE)


# The command for each RPC that a person may need.
_COMMANDS = {
    "CreateRun": "create",
    "GetRun": "get",
    "ListRuns": "list",
    "GetUsage": "usage",
    "WatchRun": "watch",
    "WatchRuns": "watch",
    "CancelRun": "cancel",
    "RetryRun": "retry",
    "PurgeProject": "purge",
    "PreviewPlaybook": "create --type PREVIEW_GENERATE",
    "ApplyPlaybook": "create --type APPLY",
    "EstimatePlaybook": "estimate",
    "GetDraft": "draft",
    "GetLatestDraft": "draft",
    "ListRunItems": "items",
    "PutProject": "import",
    "PutProducts": "import",
    "ListProducts": "export",
}
_RPC = re.compile(rf"\b(?:(?:Runs|Executor|Catalog)Service[./])?({'|'.join(_COMMANDS)})\b")


class CommandError(Exception):
    """A command cannot do what was asked. The message says what happened and what to do about it."""


def in_commands(message: str) -> str:
    """Return a service's message with commands for the RPCs that it names."""
    return _RPC.sub(lambda found: f"`playbook-runs {_COMMANDS[found[1]]}`", message)


def explain(error: ServiceCallError) -> str:
    """Return in one line what a failed call means to a person at a terminal, and what to do next."""
    return printable(in_commands(_explained(error)))


def _explained(error: ServiceCallError) -> str:
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        return _unreachable(error)
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer from {error.target} in time; a run that it accepted goes on: see `playbook-runs list`"
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        remedy = "give a token with --token or PLAYBOOK_RUNS_TOKEN, or name a local stack's folder with --data-dir"
        return f"{error.message} ({remedy})"
    if len(error.violations) > 1:
        return "; ".join(f"{violation.field}: {violation.description}" for violation in error.violations)
    return error.message


def _unreachable(error: ServiceCallError) -> str:
    words = " ".join(error.message.split())
    if _UNHEALTHY.search(words):
        return (
            f"{error.target} answers, and says that it cannot serve now (NOT_SERVING): its database is away, or needs "
            "`runs-service migrate` or `executor-service migrate`; its log says which"
        )
    if _TLS.search(error.message):
        remedy = "check --ca-file, --cert-file and --key-file, and that the service's certificate names its address"
        return f"no TLS with {error.target}: {remedy}: {words}"
    if _HANGS_UP.search(error.message):
        return (
            f"{error.target} hangs up: perhaps it wants TLS (--ca-file) or a certificate of yours (--cert-file, "
            "--key-file), or it is stopping"
        )
    return (
        f"nothing answers at {error.target}: start the stack with `playbook-runs up`, "
        f"or name a running one with --data-dir, --target or --executor-target ({words})"
    )
