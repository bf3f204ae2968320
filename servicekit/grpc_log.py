"""Silences gRPC's own log. The commands import this before anything that imports gRPC, which reads the variable then.

Its core writes lines to standard error past `logging`, with the words of peers as they are: whoever connects, without a
token, forges log lines and commands to the terminal with the debug text of a GOAWAY. What matters of it comes as an
exception or a status too. Set GRPC_VERBOSITY to see it.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
