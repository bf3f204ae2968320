"""Silences gRPC's own log. The commands import this before anything that imports gRPC, which then reads the variable.

gRPC's core writes to standard error and not to `logging`, with text from peers unescaped: with the debug text of a
GOAWAY any peer, without a token, can forge log lines and send commands to the terminal. Failures are reported as
exceptions and statuses as well. Set GRPC_VERBOSITY to see the lines.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
