"""Where the services answer and which token they get: stated by a person, or found in the folder of a local stack."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from runs_client.client import RunsClient
from runs_client.executor import ExecutorClient
from runs_client.failures import CommandError

if TYPE_CHECKING:
    from devstack.datadir import StackInfo

PROXY_VARIABLE = "PLAYBOOK_RUNS_HTTP_PROXY"  # true: calls go through the proxy of http_proxy
TOKEN_VARIABLE = "PLAYBOOK_RUNS_TOKEN"  # noqa: S105  # its name
DEFAULT_TARGETS = {"runs": "127.0.0.1:50051", "executor": "127.0.0.1:50052"}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

ServiceName = Literal["runs", "executor"]
Client = TypeVar("Client", RunsClient, ExecutorClient)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, the token to send there ("": none), the certificates to trust and our own (None: no TLS)."""

    target: str
    token: str = ""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """What a person says about the services, in the options that all commands share. None: not said."""

    target: str | None = None  # of runs_service
    executor_target: str | None = None
    token: str | None = None
    data_dir: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def runs(self, project: str) -> RunsClient:
        """Return a client of runs_service. Raises CommandError as `endpoint` does."""
        return self._client(RunsClient, "runs", project)

    def executor(self, project: str) -> ExecutorClient:
        """Return a client of executor_service. Raises CommandError as `endpoint` does."""
        return self._client(ExecutorClient, "executor", project)

    def _client(self, kind: type[Client], service: ServiceName, project: str) -> Client:
        there = self.endpoint(service, project)
        return kind(
            there.target,
            token=there.token,
            ca_file=there.ca_file,
            cert_file=there.cert_file,
            key_file=there.key_file,
            http_proxy=_asks_for_proxy(),
        )

    def arguments(self) -> list[str]:
        """Return these options as arguments of another command; all but the token, which is a secret."""
        options = {
            "--data-dir": self.data_dir,
            "--target": self.target,
            "--executor-target": self.executor_target,
            "--ca-file": self.ca_file,
            "--cert-file": self.cert_file,
            "--key-file": self.key_file,
        }
        return [word for name, value in options.items() if value is not None for word in (name, str(value))]

    def endpoint(self, service: ServiceName, project: str) -> Endpoint:
        """Return how to reach a service.

        What is not stated comes from the stack that runs in `data_dir`, or in the default folder: its address, and an
        OWNER token for `project` (`*`: the platform's, for every project), made with the stack's own secret. A token
        is made only for the stack's own address.
        PLAYBOOK_RUNS_TOKEN comes before the token of a stack that was not named, and after that of one that was.
        Raises CommandError when `data_dir` was given and no stack runs there, when only the other service's address is
        known, or when a file cannot be read or used.
        """
        from devstack.datadir import DataDir, default_data_dir
        from devstack.errors import StackError

        _check_certificates(self.ca_file, self.cert_file, self.key_file)
        stated, other = self.target, self.executor_target
        if service == "executor":
            stated, other = other, stated
        token = self.token or ""
        from_environment = os.environ.get(TOKEN_VARIABLE, "")
        stack = DataDir(self.data_dir or default_data_dir())
        info = stack.info()
        if info is None and self.data_dir and not stated:
            raise CommandError(
                f"no stack runs in {self.data_dir}: start it with `playbook-runs up --data-dir {self.data_dir}`"
            )
        target = stated or _target_beside(service, other, info, is_named=self.data_dir is not None)
        is_the_stacks = info is not None and _spelled_out(target) in _targets(info, service)
        if not token and is_the_stacks and (self.data_dir or not from_environment):
            try:
                token = stack.secrets().token({project: "OWNER"}, user="local-user")
            except StackError as error:
                raise CommandError(str(error)) from error
        return Endpoint(target, token or from_environment, self.ca_file, self.cert_file, self.key_file)


def _target_beside(service: ServiceName, other: str | None, info: "StackInfo | None", *, is_named: bool) -> str:
    """Return the address of a service that was not stated, given that of the `other` and whether a stack `is_named`.

    A person who names one service elsewhere does not mean the other one on this machine, nor that it may have the
    token.
    """
    other_service: ServiceName = "executor" if service == "runs" else "runs"
    if other is not None and other.rpartition(":")[0].lower() not in LOOPBACK:
        option = "--target" if service == "runs" else "--executor-target"
        raise CommandError(f"{other} is {other_service}-service: say with {option} where {service}-service answers")
    if info is not None and (is_named or other is None or _spelled_out(other) in _targets(info, other_service)):
        return _targets(info, service)[0]
    return DEFAULT_TARGETS[service]


def _targets(info: "StackInfo", service: ServiceName) -> list[str]:
    return info.runs_targets if service == "runs" else info.executor_targets


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


def _asks_for_proxy() -> bool:
    return os.environ.get(PROXY_VARIABLE, "").lower() in ("1", "true", "yes")
