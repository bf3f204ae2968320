"""Checks every request against the rules in its proto before its handler runs."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from servicekit.errors import Violation
from servicekit.rpc.interceptors.base import Behaviour, CallInterceptor, Context
from servicekit.rpc.validation import validation_error, violations_of

# By full method: rules over several fields of a request. In a proto they would be CEL, which costs more than the rest.
RequestRules = Mapping[str, Callable[[Any], list[Violation]]]


class Validation(CallInterceptor):
    """Refuses requests that break a rule of their proto or of `rules`, with a violation for each field."""

    def __init__(self, rules: RequestRules) -> None:
        self._rules = rules

    def intercept(
        self, proceed: Behaviour, method: str, request: Message, context: Context
    ) -> Awaitable[Message | None]:
        """Serve the call if its request is valid."""
        violations = violations_of(request)
        if rule := self._rules.get(method):
            violations += rule(request)
        if violations:
            raise validation_error(violations)
        return proceed(request, context)
