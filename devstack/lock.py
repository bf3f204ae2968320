"""The right to use a data folder, shared by all processes of one stack."""

import fcntl
import os
from pathlib import Path

from devstack.errors import StackError
from devstack.process import poll

LEFTOVERS_TIMEOUT = 20.0  # seconds for the processes of a killed stack to end


class Lock:
    """A lock on `file`, kept until `release`, and beyond that by every process that inherited its descriptor.

    So a stack that starts after a killed one waits until the last process of that one has released the data. Raises
    StackError, with the process id, when the owner of the lock is not about to end.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        try:
            poll(self._acquired, LEFTOVERS_TIMEOUT, lambda: f"processes of a killed stack still use {file.parent}")
        except BaseException:
            self.release()
            raise
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    @property
    def descriptor(self) -> int:
        """The file descriptor to hand on to the processes that share the lock."""
        return self._file.fileno()

    def release(self) -> None:
        """Release it; a second time does nothing."""
        self._file.close()

    def _acquired(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._path.read_text()
            if owner.isdigit() and is_running(int(owner)):
                raise StackError(f"a stack is running in {self._path.parent} already, with pid {owner}") from None
            return False
        return True


def is_running(pid: int) -> bool:
    """Say whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True
