"""What goes wrong at the command line, in one line for the person who sits there."""

import grpc

from runs_client.errors import ServiceCallError


class CommandError(Exception):
    """A command cannot do what was asked. The message says what happened and what to do about it."""


def explain(error: ServiceCallError) -> str:
    """Return what a failed call means to somebody at a terminal, and what to do next."""
    if error.code is grpc.StatusCode.UNAVAILABLE and not error.reason:
        return (
            f"nothing answers at {error.target}: start the stack with `playbook-runs up`, "
            "or name a running one with --data-dir, --target or --executor-target"
        )
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer from {error.target} in time; what it accepted goes on: look with `playbook-runs list`"
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        remedy = "give a token with --token or PLAYBOOK_RUNS_TOKEN, or name a local stack's folder with --data-dir"
        return f"{error.message} ({remedy})"
    if len(error.violations) > 1:
        return "; ".join(f"{violation.field}: {violation.description}" for violation in error.violations)
    return error.message
