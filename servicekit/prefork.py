"""Several processes of one service at one port, for machines with more cores than one process can use.

The kernel spreads new connections over them (SO_REUSEPORT). They share nothing but the database and the broker, like
replicas on different machines.
"""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from servicekit.rpc.bind_errors import explain_bind_error
from servicekit.telemetry.logs import LevelSwitch

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
MIN_LIFETIME = 3.0  # seconds; a process that ends sooner would end again, so it is not restarted

Serve = Callable[[int], None]


def run(count: int, listen: str, serve: Serve, level: LevelSwitch, *, variable: str) -> int:
    """Run `serve(number)` in `count` processes at HOST:PORT until SIGTERM or SIGINT, and return the exit code.

    A process that dies is replaced. Signals are forwarded to all; SIGUSR1 changes the log's `level` here too, for those
    that will be started. With a count of 1, `serve(0)` runs in this process.
    Raises SystemExit, naming the `variable` that the address is from, when the address cannot be bound.
    """
    if count == 1:
        serve(0)
        return 0
    with _reserved(listen, variable):
        return _Processes(serve, level).run(count)


def _reserved(listen: str, variable: str) -> socket.socket:
    """Return a bound socket that reserves the port for our processes. Fails when another program listens there."""
    host, _, port = listen.rpartition(":")
    address = (host.strip("[]"), int(port))
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        with socket.socket(family) as exclusive:
            exclusive.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            exclusive.bind(address)
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except (OSError, UnicodeError) as error:
        raise SystemExit(f"cannot listen on {listen} ({variable}): {explain_bind_error(listen)}") from error
    return reserved


class _Processes:
    def __init__(self, serve: Serve, level: LevelSwitch) -> None:
        self._serve = serve
        self._level = level
        self._running: dict[int, tuple[int, float]] = {}  # by process id: number, start
        self._stopping = False

    def run(self, count: int) -> int:
        """Start `count` processes, and return the first exit code other than 0 when all have ended for good."""
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        signal.signal(signal.SIGUSR1, self._change_level)
        for number in range(count):
            self._start(number)
        exit_code = 0
        while self._running:
            pid, status = os.wait()
            number, started = self._running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                exit_code = exit_code or max(code, 0)
            elif time.monotonic() - started < MIN_LIFETIME:
                logger.error("process %d ended with %d soon after its start; stopping the others", number, code)
                exit_code = code if code > 0 else 1
                self._stop(signal.SIGTERM, None)
            else:
                logger.error("process %d ended with %d; starting another one", number, code)
                self._start(number)
        return exit_code

    def _start(self, number: int) -> None:
        # A signal that comes meanwhile waits: here until the process is known, which then gets it; there for its loop.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = number, time.monotonic()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
            if self._stopping:  # the signal came during the fork
                os.kill(pid, signal.SIGTERM)
            return
        # The child, which never returns from here.
        code = 1
        try:
            for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                signal.signal(name, signal.SIG_DFL)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == parent:
                self._serve(number)
                code = 0
        except SystemExit as end:
            print(end, file=sys.stderr)  # noqa: T201
        except BaseException:
            logger.exception("process %d failed", number)
        finally:
            logging.shutdown()
            os._exit(code)

    def _change_level(self, _number: int, _frame: FrameType | None) -> None:
        self._level.change()
        self._signal_all(signal.SIGUSR1)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, name: signal.Signals) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and is still noted as running
                os.kill(pid, name)
