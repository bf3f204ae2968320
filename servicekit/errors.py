"""Errors for callers: the table of reasons, and their conversion to a gRPC status."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum, auto

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "playbook-runs"
# Characters. A status travels in HTTP/2 trailers, and gRPC drops a call whose trailers are too large.
MAX_MESSAGE = 1_000
MAX_DETAIL = 300


class Reason(StrEnum):
    """Every reason of an ErrorInfo. `STATUS_CODES` has the status code of each."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:  # noqa: ARG004
        return name

    VALIDATION_FAILED = auto()
    PAGE_TOKEN_INVALID = auto()
    TOKEN_MISSING = auto()
    TOKEN_EXPIRED = auto()
    TOKEN_INVALID = auto()
    PROJECT_ACCESS_DENIED = auto()
    ROLE_TOO_LOW = auto()
    RUN_NOT_FOUND = auto()
    DRAFT_NOT_FOUND = auto()
    PROJECT_NOT_FOUND = auto()
    IDEMPOTENCY_KEY_REUSED = auto()
    RUN_NOT_RETRYABLE = auto()
    PRODUCT_LIMIT_REACHED = auto()
    SEQUENCE_EXPIRED = auto()
    POSITION_EXPIRED = auto()
    WATCHER_TOO_SLOW = auto()
    TOO_MANY_CALLS = auto()
    CREATE_RATE_EXCEEDED = auto()
    QUEUE_FULL = auto()
    DATABASE_UNAVAILABLE = auto()
    SCHEMA_MISMATCH = auto()
    EXECUTOR_UNAVAILABLE = auto()
    SHUTTING_DOWN = auto()
    METHOD_UNKNOWN = auto()
    INTERNAL_ERROR = auto()


STATUS_CODES: Mapping[Reason, grpc.StatusCode] = {
    Reason.VALIDATION_FAILED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PAGE_TOKEN_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOKEN_MISSING: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_EXPIRED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.TOKEN_INVALID: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PROJECT_ACCESS_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.ROLE_TOO_LOW: grpc.StatusCode.PERMISSION_DENIED,
    Reason.RUN_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.DRAFT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.PROJECT_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.IDEMPOTENCY_KEY_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.RUN_NOT_RETRYABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.PRODUCT_LIMIT_REACHED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SEQUENCE_EXPIRED: grpc.StatusCode.OUT_OF_RANGE,
    Reason.POSITION_EXPIRED: grpc.StatusCode.OUT_OF_RANGE,
    Reason.WATCHER_TOO_SLOW: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_CALLS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.CREATE_RATE_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DATABASE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SCHEMA_MISMATCH: grpc.StatusCode.UNAVAILABLE,
    Reason.EXECUTOR_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.SHUTTING_DOWN: grpc.StatusCode.UNAVAILABLE,
    Reason.METHOD_UNKNOWN: grpc.StatusCode.UNIMPLEMENTED,
    Reason.INTERNAL_ERROR: grpc.StatusCode.INTERNAL,
}


@dataclass(frozen=True)
class Violation:
    """A field of a request that breaks a rule."""

    field: str  # path as in the request: "meta.sample_size", "products[3].id"
    description: str


class ServiceError(Exception):
    """An error that the caller gets.

    `message` is for a person and names what to do, `metadata` is for programs. Bad input has `violations`, or the one
    `field` that the message is about. `retry_after` is set when waiting helps.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        field: str = "",
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = (Violation(field, message),) if field else violations
        self.retry_after = retry_after

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC status code of this error's reason."""
        return STATUS_CODES[self.reason]

    def to_status(self) -> grpc.Status:
        """Return the rich status: ErrorInfo always, BadRequest and RetryInfo where they apply."""
        status = status_pb2.Status(code=self.code.value[0], message=_shortened(self.message, MAX_MESSAGE))
        metadata = {name: _shortened(value, MAX_DETAIL) for name, value in self.metadata.items()}
        info = error_details_pb2.ErrorInfo(reason=self.reason.value, domain=DOMAIN, metadata=metadata)
        status.details.add().Pack(info)
        if self.violations:
            bad_request = error_details_pb2.BadRequest()
            for violation in self.violations:
                bad_request.field_violations.add(
                    field=violation.field, description=_shortened(violation.description, MAX_DETAIL)
                )
            status.details.add().Pack(bad_request)
        if self.retry_after is not None:
            delay = Duration()
            delay.FromTimedelta(self.retry_after)
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        rich: grpc.Status = rpc_status.to_status(status)
        return rich


def _shortened(text: str, limit: int) -> str:
    text = text if len(text) <= limit else f"{text[:limit]}…"
    return text if text.isascii() else text.encode(errors="replace").decode()  # surrogates cannot be sent


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    """Return the ErrorInfo of a failed call; None: the failure came from the network, a proxy or another server."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # its code and its details contradict each other
        return None
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            return info
    return None


def database_unavailable() -> ServiceError:
    """Return the error of a call that needs the database while it is away."""
    return ServiceError(
        Reason.DATABASE_UNAVAILABLE,
        "the database cannot be reached; nothing was changed that was not confirmed; try again",
        retry_after=timedelta(seconds=1),
    )


def schema_mismatch(command: str) -> ServiceError:
    """Return the error of a call while the database's schema is not the one that this release knows.

    `command` is the service's own command (runs-service).
    """
    return ServiceError(
        Reason.SCHEMA_MISMATCH,
        "the database's schema is not the one that this service knows; its operator is to run "
        f"`{command} migrate` (the service's log has the details)",
        retry_after=timedelta(seconds=5),
    )
