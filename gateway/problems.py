"""Errors as RFC 9457 has them, with the members that clients of the older API read beside."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from starlette.responses import Response

from servicekit.errors import DOMAIN, STATUS_CODES, Reason

MEDIA_TYPE = "application/problem+json"
UNREACHABLE_RETRY = 1.0  # seconds
STATUS: Final[Mapping[grpc.StatusCode, HTTPStatus]] = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.CONFLICT,
    grpc.StatusCode.ABORTED: HTTPStatus.CONFLICT,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.GONE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.CANCELLED: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}
# What a failed call means that never had an answer of the service's own.
_WITHOUT_ANSWER: Final[Mapping[grpc.StatusCode, tuple[str, str]]] = {
    grpc.StatusCode.UNAVAILABLE: ("SERVICE_UNAVAILABLE", "the service cannot be reached; try again"),
    grpc.StatusCode.CANCELLED: ("SHUTTING_DOWN", "this server is stopping; try again"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        "DEADLINE_EXCEEDED",
        "there was no answer in time; what was asked for may still happen: look before you ask again",
    ),
}

Field = tuple[str, str]  # its path as JSON has it ("meta.sampleSize"), and what is wrong with it


class Problem(Exception):
    """An answer that is an error.

    `reason` is for programs, one of servicekit.errors.Reason or one of the gateway's own; `message` is for a person.
    """

    def __init__(
        self,
        status: HTTPStatus,
        reason: str,
        message: str,
        *,
        fields: Sequence[Field] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.fields = list(fields)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after  # seconds
        self.headers = dict(headers or {})

    @classmethod
    def invalid(cls, message: str, field: str = "") -> "Problem":
        """Return the problem of a request that breaks a rule, in `field` if it is one that breaks it."""
        fields = [(field, message)] if field else []
        return cls(HTTPStatus.BAD_REQUEST, "VALIDATION_FAILED", message, fields=fields)

    @classmethod
    def of_reason(cls, reason: Reason, message: str, *, retry_after: float | None = None) -> "Problem":
        """Return the problem that the services have under the same `reason`."""
        return cls(STATUS[STATUS_CODES[reason]], reason, message, retry_after=retry_after)

    @classmethod
    def not_allowed(cls, method: str, allowed: Sequence[str]) -> "Problem":
        """Return the problem of a path that is there for other methods."""
        allow = ", ".join(sorted(allowed))
        message = f"{method} is not possible at this path; {allow} is"
        return cls(HTTPStatus.METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message, headers={"allow": allow})

    @classmethod
    def of_call(cls, error: grpc.aio.AioRpcError) -> "Problem":
        """Return the problem of a failed call: what the service said of it, and nothing of the way there."""
        try:
            status = rpc_status.from_call(error)
        except ValueError:  # its code and its details contradict each other
            status = None
        info, bad_request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        for detail in status.details if status else ():
            for known in (info, bad_request, retry):
                detail.Unpack(known)
        code = error.code()
        if info.domain != DOMAIN:
            if code not in _WITHOUT_ANSWER:
                message = "the service gave no answer that is understood here"
                return cls(HTTPStatus.BAD_GATEWAY, "BAD_GATEWAY", message)
            reason, message = _WITHOUT_ANSWER[code]
            retry_after = None if code is grpc.StatusCode.DEADLINE_EXCEEDED else UNREACHABLE_RETRY
            return cls(STATUS[code], reason, message, retry_after=retry_after)
        return cls(
            STATUS.get(code, HTTPStatus.INTERNAL_SERVER_ERROR),
            info.reason,
            error.details() or "",
            fields=[(camel_case(one.field), one.description) for one in bad_request.field_violations],
            metadata={camel_case(name): value for name, value in info.metadata.items()},
            retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        )

    def response(self, request_id: str) -> Response:
        """Return the answer."""
        title = self.status.phrase
        content = {
            "type": "about:blank",
            "title": title,
            "status": self.status.value,
            "detail": self.message,
            "reason": self.reason,
            "fields": [{"field": field, "description": description} for field, description in self.fields],
            "metadata": self.metadata,
            "requestId": request_id,
            # What clients of the older API read.
            "message": self.message,
            "code": self.reason,
            "error": title,
            "statusCode": self.status.value,
        }
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer" if self.reason == "TOKEN_MISSING" else 'Bearer error="invalid_token"'
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        return Response(body, self.status.value, headers, MEDIA_TYPE)


def camel_case(path: str) -> str:
    """Return a path of fields as JSON has it: "meta.sample_size" is "meta.sampleSize"."""
    first, *others = path.split("_")
    return first + "".join(other[:1].upper() + other[1:] for other in others)
