"""Why the broker does nothing for us, in words that a caller may read.

The log has all that the driver says, addresses too. A caller gets the broker's own answer, or the kind of trouble.
"""

import ssl
from collections.abc import Iterator

from amqp.exceptions import AMQPError
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, ResponseError

from servicekit.broker.link import BrokerUnsuitable
from servicekit.telemetry.outages import Outage, first_line

UNREACHABLE = "the broker cannot be reached"
UNVERIFIED = "the broker's TLS certificate cannot be verified"

_REFUSALS = (AuthenticationError, AuthorizationError, BusyLoadingError, ResponseError, BrokerUnsuitable)


def note(outage: Outage, error: BaseException, *secrets: str) -> str:
    """Note in `outage` why the broker cannot be used, and return it for the log: the driver's words, no `secrets`."""
    why = first_line(error, *secrets)
    outage.failed(why, public_reason=for_callers(error, *secrets))
    return why


def for_callers(error: BaseException, *secrets: str) -> str:
    """Return what a caller may know of `error`, without `secrets` and without an address."""
    for one in _causes(error):
        if isinstance(one, AMQPError) and one.reply_code and one.reply_text:  # without a code it is py-amqp's own
            return f"the broker refuses: {first_line(Exception(one.reply_text), *secrets)}"
        if isinstance(one, _REFUSALS):
            return f"the broker refuses: {first_line(one, *secrets)}"
        if isinstance(one, ssl.SSLCertVerificationError):
            return UNVERIFIED
    return UNREACHABLE


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
