"""Finds out who is calling."""

from google.protobuf.message import Message

from servicekit.auth import Authenticator, set_principal
from servicekit.interceptors.base import Call, CallInterceptor, Context


class Authentication(CallInterceptor):
    """Refuses calls without a valid token and makes the caller known to the rest."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def surround(self, call: Call, method: str, request: Message, context: Context) -> Message | None:
        """Serve the call in the name of its principal."""
        header = None
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                header = str(value)
        set_principal(self._authenticator.authenticate(header))
        return await call(request, context)
