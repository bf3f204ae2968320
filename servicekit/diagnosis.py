"""What a service's `check` found: a line for each thing that it depends on, and what to do about it."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a thing stands."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"  # it was not looked at; the message says why


@dataclass(frozen=True)
class Finding:
    """One line. `advice` is what a person has to do; it may stand with what is ok, too."""

    check: str
    status: Status
    message: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON takes it."""
        return {name: str(value) for name, value in asdict(self).items()}


def ok(check: str, message: str) -> Finding:
    """Return that a thing is as it should be."""
    return Finding(check, Status.OK, message)


def failed(check: str, message: str, advice: str) -> Finding:
    """Return that a thing is not as it should be."""
    return Finding(check, Status.FAILED, message, advice)


def skipped(check: str, message: str) -> Finding:
    """Return that a thing was not looked at."""
    return Finding(check, Status.SKIPPED, message)
