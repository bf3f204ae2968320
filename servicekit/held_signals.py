"""Holds back SIGUSR1, which by default ends a process. The commands import this before what takes a second to import.

A signal that comes before there is a handler for it is neither lost then nor the end of the process: it waits until the
handler is there (`command.run`). SIGTERM and Ctrl-C are not held back: they end what has only begun to start.
"""

import signal

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
