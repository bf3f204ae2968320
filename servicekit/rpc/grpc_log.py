"""Silences gRPC's own log. The commands import this before anything that imports gRPC, which reads the variable then.

Its core writes lines to standard error past `logging`, with the words of peers as they are: any peer, without a token,
can forge log lines and send commands to the terminal with the debug text of a GOAWAY. Failures come as exceptions and
statuses too. Set GRPC_VERBOSITY to see the lines.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
