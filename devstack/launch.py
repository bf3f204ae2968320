"""Become another program: one that ends with its parent and, for PostgreSQL, is not root.

Run as a script, `python -I -S launch.py PARENT_PID DEATH_SIGNAL USER COMMAND...`, which replaces itself by COMMAND
and so keeps its process id. USER is `-` for no change. A script of its own rather than Popen's `preexec_fn`, because
between fork and exec no Python may run in a process with threads, and a process that uses gRPC has threads.

Linux sends DEATH_SIGNAL when the parent's *thread* that started this process ends. Other systems have
nothing of the kind; there processes end only with an orderly stop.
"""

import ctypes
import os
import pwd
import signal
import sys

# From linux/prctl.h, linux/securebits.h and linux/capability.h.
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CAPABILITY_VERSION_3 = 0x20080522

Capabilities = ctypes.c_uint32 * 6  # effective, permitted, inheritable: bits 0 to 31, then the same for 32 to 63
PERMITTED = 1


def main() -> None:
    """Do as the arguments say, or end with a line on stderr that says what cannot be done."""
    parent, death_signal, user, *command = sys.argv[1:]
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if user != "-":
        try:
            _become(pwd.getpwnam(user), libc)
        except (KeyError, OSError) as error:
            sys.exit(f"cannot become {user}: {error}")
    if libc is not None:
        libc.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)  # after setuid, which would clear it
        if os.getppid() != int(parent):
            sys.exit("the parent ended before this process could follow it")
    for name in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(name, signal.SIG_DFL)  # Python ignores them, and exec would hand that on
    try:
        os.execv(command[0], command)  # noqa: S606
    except OSError as error:
        who = "" if user == "-" else f" as {user}"
        sys.exit(f"cannot run {command[0]}{who}: {error.strerror}")


def _become(account: pwd.struct_passwd, libc: ctypes.CDLL | None) -> None:
    """Change to `account`, and on Linux keep the one capability to pass folders that only root may enter.

    Without it a venv or data folder under a 0700 folder of root would be out of reach. Where the kernel refuses the
    capability nothing is lost but that: such folders then end in "cannot run ... permission denied".
    """
    capability = _permitted_capability(libc) if libc is not None else None
    if libc is not None and capability is not None:
        # Keeps capabilities over setuid, and lets access(2), which PostgreSQL asks, honour them for a non-root user.
        libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    if libc is not None and capability is not None:
        bit = 1 << capability
        libc.capset(_header(), Capabilities(bit, bit, bit, 0, 0, 0))  # all others are given up
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _permitted_capability(libc: ctypes.CDLL) -> int | None:
    """Return the weakest capability at hand that opens folders: containers often have only the stronger one."""
    own = Capabilities()
    libc.capget(_header(), own)
    return next((c for c in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if own[PERMITTED] >> c & 1), None)


def _header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)


if __name__ == "__main__":
    main()
