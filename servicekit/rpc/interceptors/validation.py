"""Checks every request against the rules in its proto before its handler runs."""

from google.protobuf.message import Message

from servicekit.errors import Reason, ServiceError
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context
from servicekit.rpc.validation import MAX_VIOLATIONS, violations_of


class Validation(CallInterceptor):
    """Refuses requests that break a rule, with a violation for each field."""

    async def intercept(self, proceed: Behaviour, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call if its request is valid."""
        if violations := violations_of(request):
            shown = tuple(violations[:MAX_VIOLATIONS])
            names = ", ".join(dict.fromkeys(violation.field for violation in shown))
            more = f", and more: only the first {MAX_VIOLATIONS} are listed" if len(violations) > len(shown) else ""
            raise ServiceError(
                Reason.VALIDATION_FAILED,
                f"{shown[0].field or 'request'}: {shown[0].description}"
                if len(violations) == 1
                else f"these fields are not valid: {names}{more}",
                violations=shown,
            )
        return await proceed(request, context)
