"""How to reach a service: its address and a token, given by hand or found in the folder of a local stack."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runs_client.client import RunsClient
from runs_client.executor import ExecutorClient
from runs_client.failures import CommandError

TOKEN_VARIABLE = "PLAYBOOK_RUNS_TOKEN"  # noqa: S105  # its name
DEFAULT_TARGETS = {"runs": "127.0.0.1:50051", "executor": "127.0.0.1:50052"}


@dataclass(frozen=True, slots=True)
class Access:
    """An address, the token to send there ("": none), the certificates to trust and our own (None: no TLS)."""

    target: str
    token: str = ""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def runs(self) -> RunsClient:
        """Return a client of the runs_service there."""
        return RunsClient(
            self.target, token=self.token, ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file
        )

    def executor(self) -> ExecutorClient:
        """Return a client of the executor_service there."""
        return ExecutorClient(
            self.target, token=self.token, ca_file=self.ca_file, cert_file=self.cert_file, key_file=self.key_file
        )


def find_access(
    service: Literal["runs", "executor"],
    project: str,
    *,
    target: str | None,
    token: str | None,
    data_dir: Path | None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
) -> Access:
    """Return how to reach a service.

    What is not given comes from the stack that runs in `data_dir`, or in the default folder: its address, and an
    OWNER token for `project` (`*`: the platform's, for every project), made with the stack's own secret. A token is
    made only for the stack's own address.
    PLAYBOOK_RUNS_TOKEN comes before the token of a stack that was not named, and after that of one that was.
    Raises CommandError when `data_dir` was given and no stack runs there, or a file cannot be read or used.
    """
    from devstack.datadir import DataDir, default_data_dir
    from devstack.errors import StackError

    _check_certificates(ca_file, cert_file, key_file)
    from_environment = os.environ.get(TOKEN_VARIABLE, "")
    stack = DataDir(data_dir or default_data_dir())
    info = stack.info()
    if info is None:
        if data_dir and not target:
            raise CommandError(f"no stack runs in {data_dir}: start it with `playbook-runs up --data-dir {data_dir}`")
        return Access(target or DEFAULT_TARGETS[service], token or from_environment, ca_file, cert_file, key_file)
    targets = info.runs_targets if service == "runs" else info.executor_targets
    is_its_own = target is None or _spelled_out(target) in targets
    if not token and is_its_own and (data_dir or not from_environment):
        try:
            token = stack.secrets().token({project: "OWNER"}, user="local-user")
        except StackError as error:
            raise CommandError(str(error)) from error
    return Access(target or targets[0], token or from_environment, ca_file, cert_file, key_file)


def _check_certificates(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> None:
    from servicekit.config.certificates import named, require_certificates, require_key

    if bool(cert_file) != bool(key_file):
        raise CommandError("--cert-file and --key-file go together: give both, or none")
    try:
        if ca_file:
            with named("--ca-file", ca_file):
                require_certificates(ca_file)
        if cert_file and key_file:
            with named("--cert-file", cert_file):
                require_certificates(cert_file)
            with named("--key-file", key_file):
                require_key(key_file, cert_file)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _spelled_out(target: str) -> str:
    """Return HOST:PORT as a stack writes its own."""
    host, _, port = target.rpartition(":")
    return f"127.0.0.1:{port}" if host.lower() == "localhost" else target
