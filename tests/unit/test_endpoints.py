"""Where the command finds a service, and whom it sends which token."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from devstack.datadir import DataDir, Secrets, StackInfo
from runs_client.endpoints import TOKEN_VARIABLE, Endpoint, ServiceOptions
from runs_client.failures import CommandError
from tests.support.certificates import Authority

INFO = StackInfo(
    pid=os.getpid(),
    auth="jwt",
    runs_targets=["127.0.0.1:1001", "127.0.0.1:1003"],
    executor_targets=["127.0.0.1:1002"],
    postgres_port=1,
    valkey_port=None,
)


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    """Those of a stack that runs in tmp_path."""
    stack = DataDir(tmp_path)
    stack.publish(INFO)
    return stack.make_secrets()


def found(service: Any = "runs", **given: Any) -> Endpoint:
    if service == "executor" and "target" in given:
        given["executor_target"] = given.pop("target")
    return ServiceOptions(**given).endpoint(service, "shop")


@pytest.fixture(autouse=True)
def _no_default_stack(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_without_a_stack_the_default_addresses_are_tried() -> None:
    assert found("runs") == Endpoint("127.0.0.1:50051")
    assert found("executor") == Endpoint("127.0.0.1:50052")


def test_a_local_stack_gives_its_addresses_and_an_owners_token(tmp_path: Path, secrets: Secrets) -> None:
    assert found("executor", data_dir=tmp_path).target == "127.0.0.1:1002"
    endpoint = found("runs", data_dir=tmp_path)
    assert endpoint.target == "127.0.0.1:1001"
    claims = jwt.decode(endpoint.token, secrets.jwt_secret, algorithms=["HS256"])
    assert claims["projects"] == {"shop": "OWNER"}


def test_the_stack_in_the_default_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    stack = DataDir(tmp_path / "playbook-runs")
    stack.path.mkdir()
    stack.make_secrets()
    stack.publish(INFO)
    assert found("runs").target == "127.0.0.1:1001"


def test_what_is_given_counts(tmp_path: Path, secrets: Secrets) -> None:
    assert found(target="example.com:443", token="mine", data_dir=tmp_path) == Endpoint("example.com:443", "mine")
    assert found(token="mine", data_dir=tmp_path) == Endpoint("127.0.0.1:1001", "mine")


def test_the_environments_token_counts_before_a_stack_that_was_not_named_and_after_one_that_was(
    tmp_path: Path, secrets: Secrets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "theirs")
    assert found().token == "theirs"
    assert found(token="mine", data_dir=tmp_path).token == "mine"
    assert jwt.decode(found(data_dir=tmp_path).token, secrets.jwt_secret, algorithms=["HS256"])
    assert found(target="example.com:443", data_dir=tmp_path).token == "theirs"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path.parent))
    tmp_path.rename(tmp_path.parent / "playbook-runs")
    assert found() == Endpoint("127.0.0.1:1001", "theirs")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
def test_localhost_is_the_stacks_own_address(host: str, tmp_path: Path, secrets: Secrets) -> None:
    endpoint = found(target=f"{host}:1001", data_dir=tmp_path)
    assert (endpoint.target, bool(endpoint.token)) == (f"{host}:1001", True)
    assert found(target=f"{host}:1002", data_dir=tmp_path).token == ""


def test_another_replica_of_the_stack_gets_a_token(tmp_path: Path, secrets: Secrets) -> None:
    assert found(target="127.0.0.1:1003", data_dir=tmp_path).token


def test_a_stacks_token_goes_nowhere_else(tmp_path: Path, secrets: Secrets) -> None:
    assert found(target="example.com:443", data_dir=tmp_path).token == ""
    assert found("executor", target="127.0.0.1:1001", data_dir=tmp_path).token == ""


def test_a_stack_that_ended_is_no_stack(tmp_path: Path, secrets: Secrets) -> None:
    DataDir(tmp_path).publish(replace(INFO, pid=2**22 + 1))  # beyond every process id
    with pytest.raises(CommandError, match="no stack runs in"):
        found(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ca_file": "none.pem"}, "--ca-file: .*none.pem cannot be read: No such file"),
        ({"ca_file": "."}, "--ca-file: .* cannot be read: Is a directory"),
        ({"ca_file": "server.key"}, "--ca-file: .*server.key has no certificate"),
        ({"cert_file": "server.key", "key_file": "server.key"}, "--cert-file: .*server.key has no certificate"),
        ({"cert_file": "server.pem", "key_file": "server.pem"}, "--key-file: .*server.pem has no private key"),
        ({"cert_file": "server.pem", "key_file": "other.key"}, "--key-file: .* the key of another certificate"),
        ({"cert_file": "server.pem"}, "--cert-file and --key-file go together"),
        ({"key_file": "server.key"}, "--cert-file and --key-file go together"),
    ],
)
def test_certificates_that_cannot_be_used_are_refused(given: dict[str, str], message: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    authority.issue("other")
    good = {"ca_file": authority.file, "cert_file": certificate, "key_file": key}
    assert found(**good) == Endpoint("127.0.0.1:50051", **good)
    with pytest.raises(CommandError, match=message):
        found(**{option: tmp_path / file for option, file in given.items()})


def test_a_service_elsewhere_does_not_mean_the_other_one_here(tmp_path: Path, secrets: Secrets) -> None:
    for options in (
        ServiceOptions(target="example.com:443", token="mine"),
        ServiceOptions(target="example.com:443", token="mine", data_dir=tmp_path),
    ):
        with pytest.raises(CommandError, match=r"example\.com:443 is runs-service: say with --executor-target"):
            options.endpoint("executor", "shop")
    with pytest.raises(CommandError, match="say with --target"):
        ServiceOptions(executor_target="example.com:443", token="mine").endpoint("runs", "shop")
    assert ServiceOptions(target="localhost:1", token="mine").endpoint("executor", "shop").target == "127.0.0.1:50052"
    assert ServiceOptions(executor_target="localhost:1", data_dir=tmp_path).endpoint("runs", "shop").token
    of_stack = ServiceOptions(target="localhost:1003", data_dir=tmp_path).endpoint("executor", "shop")
    assert (of_stack.target, bool(of_stack.token)) == ("127.0.0.1:1002", True)


def test_the_options_become_arguments_again_without_the_token(tmp_path: Path) -> None:
    options = ServiceOptions("a:1", "b:2", "secret", tmp_path, tmp_path / "ca", tmp_path / "cert", tmp_path / "key")
    arguments = ["--data-dir", str(tmp_path), "--target", "a:1", "--executor-target", "b:2"]
    tls = ["--ca-file", f"{tmp_path}/ca", "--cert-file", f"{tmp_path}/cert", "--key-file", f"{tmp_path}/key"]
    assert options.arguments() == [*arguments, *tls]
    assert ServiceOptions(token="secret").arguments() == []
