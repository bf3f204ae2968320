"""What a service answers when it does not do what was asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

DOMAIN = "playbook-runs"  # of the ErrorInfo of both services


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is not as it must be."""

    field: str  # path as in the request: "meta.sample_size", "products[3].title"
    description: str


class ServiceCallError(Exception):
    """A call that failed.

    `code` is the gRPC status code; `reason` the documented one ("" when no service of ours answered: the connection
    failed, or a proxy refused); `message` is for a person; `violations` name the fields of bad input; `metadata` is for
    programs, for instance the run_id of IDEMPOTENCY_KEY_REUSED; `retry_after` is how many seconds to wait before the
    next attempt (None: the service did not say); `target` is the address that was called.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        violations: tuple[Violation, ...] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        target: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.target = target

    @classmethod
    def from_call(cls, error: grpc.aio.AioRpcError, target: str = "") -> Self:
        """Read the rich status of a failed call to `target`, or use the plain one.

        A plain CANCELLED is what gRPC makes of some calls whose connection was cut, and not of our own cancelling,
        which raises CancelledError: it becomes UNAVAILABLE, as for all other lost connections.
        """
        details = _Details.of(error)
        violations = details.bad_request.field_violations
        cut = error.code() is grpc.StatusCode.CANCELLED and not details.info.reason
        return cls(
            grpc.StatusCode.UNAVAILABLE if cut else error.code(),
            details.info.reason,
            "the connection was cut" if cut else error.details() or error.code().name,
            violations=tuple(Violation(found.field, found.description) for found in violations),
            metadata=dict(details.info.metadata),
            retry_after=details.retry_after,
            target=target,
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Let it be copied and pickled: a pool of processes passes on what its tasks raise."""
        return type(self), (self.code, self.reason, self.message), vars(self)

    def with_fields_renamed(self, rename: Callable[[str], str]) -> Self:
        """Return the same error with `rename` applied to its message and to its violations' fields."""
        return type(self)(
            self.code,
            self.reason,
            rename(self.message),
            violations=tuple(Violation(rename(found.field), found.description) for found in self.violations),
            metadata=self.metadata,
            retry_after=self.retry_after,
            target=self.target,
        )


@dataclass(frozen=True, slots=True)
class _Details:
    """The details of a rich status; empty where it has none, or none of ours."""

    info: error_details_pb2.ErrorInfo
    bad_request: error_details_pb2.BadRequest
    retry_after: float | None

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        retry_after: float | None = None
        try:
            status = rpc_status.from_call(error)
            for detail in status.details if status else ():
                detail.Unpack(info)
                detail.Unpack(bad_request)
                if detail.Unpack(retry):
                    retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        except (ValueError, DecodeError):  # the trailers contradict the status, or are damaged: not from our services
            return cls(error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), None)
        if info.domain != DOMAIN:  # a proxy's, whose reasons are not ours
            return cls(error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), retry_after)
        return cls(info, bad_request, retry_after)
