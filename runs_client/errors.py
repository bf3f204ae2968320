"""What a service answers when it does not do what was asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is not as it must be."""

    field: str  # path as in the request: "meta.sample_size", "products[3].title"
    description: str


class ServiceCallError(Exception):
    """A call that failed.

    `code` is the gRPC status code; `reason` the documented one ("" when no service answered, but the connection
    failed); `message` is for a person; `violations` name the fields of bad input; `metadata` is for programs, for
    instance the run_id of IDEMPOTENCY_KEY_REUSED; `target` is the address that was called.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        violations: tuple[Violation, ...] = (),
        metadata: Mapping[str, str] | None = None,
        target: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.violations = violations
        self.metadata = dict(metadata or {})
        self.target = target

    @classmethod
    def from_call(cls, error: grpc.aio.AioRpcError, target: str) -> Self:
        """Read the rich status of a failed call to `target`, or make do with the plain one.

        A plain CANCELLED is what gRPC makes of some calls whose connection was cut, and not of our own cancelling,
        which raises CancelledError: it becomes UNAVAILABLE, as for all other lost connections.
        """
        info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        try:
            status: status_pb2.Status | None = rpc_status.from_call(error)
            for detail in status.details if status else ():
                detail.Unpack(info)
                detail.Unpack(bad_request)
        except (ValueError, DecodeError):  # it contradicts itself, or is damaged: no service of ours wrote it
            info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        cut = error.code() is grpc.StatusCode.CANCELLED and not info.reason
        return cls(
            grpc.StatusCode.UNAVAILABLE if cut else error.code(),
            info.reason,
            "the connection was cut" if cut else error.details() or error.code().name,
            violations=tuple(Violation(found.field, found.description) for found in bad_request.field_violations),
            metadata=dict(info.metadata),
            target=target,
        )

    def with_fields_renamed(self, rename: Callable[[str], str]) -> Self:
        """Return the same error with `rename` applied to its message and to its violations' fields."""
        return type(self)(
            self.code,
            self.reason,
            rename(self.message),
            violations=tuple(Violation(rename(found.field), found.description) for found in self.violations),
            metadata=self.metadata,
            target=self.target,
        )
