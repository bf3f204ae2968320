"""Decodes every request and checks it against the rules in its proto before a handler sees it."""

from typing import Any

from google.protobuf.message import DecodeError, Message

from servicekit.errors import Reason, ServiceError
from servicekit.interceptors.base import Call, CallInterceptor, Context, behaviour_of, like
from servicekit.validation import violations_of


class Validation(CallInterceptor):
    """Refuses requests that break a rule, with the name of each field that does.

    Besides the protos' own rules: no NUL characters (PostgreSQL cannot store them) and no fields that this
    server does not know (it would drop them, and do something else than was asked for).
    """

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call if its request is valid."""
        if violations := violations_of(request):
            names = ", ".join(dict.fromkeys(violation.field for violation in violations))
            first = violations[0]
            raise ServiceError(
                Reason.VALIDATION_FAILED,
                f"{first.field}: {first.description}"
                if len(violations) == 1
                else f"these fields are not valid: {names}",
                violations=tuple(violations),
            )
        return await call(request, context)

    def wrap(self, handler: Any, method: str) -> Any:
        """Decode here, and not before all interceptors: gRPC's own answer to bad bytes has no ErrorInfo."""
        check = behaviour_of(super().wrap(handler, method))

        async def decode_and_check(body: bytes, context: Context) -> Message | None:
            try:
                request = handler.request_deserializer(body)
            except DecodeError as error:
                raise ServiceError(
                    Reason.VALIDATION_FAILED, f"the request cannot be decoded: {error}", field="request"
                ) from error
            return await check(request, context)

        return like(handler, decode_and_check, None)
