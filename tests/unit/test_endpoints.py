"""Where the command finds a service, and whom it sends which token."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest

from devstack.datadir import DataDir, Secrets, StackInfo
from runs_client.endpoints import TOKEN_VARIABLE, Access, find_access
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


def found(service: Any = "runs", **given: Any) -> Access:
    options = {"target": None, "token": None, "data_dir": None, "ca_file": None}
    return find_access(service, "shop", **(options | given))


@pytest.fixture(autouse=True)
def _no_default_stack(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_without_a_stack_the_default_addresses_are_tried() -> None:
    assert found("runs") == Access("127.0.0.1:50051")
    assert found("executor") == Access("127.0.0.1:50052")


def test_a_local_stack_gives_its_addresses_and_an_owners_token(tmp_path: Path, secrets: Secrets) -> None:
    assert found("executor", data_dir=tmp_path).target == "127.0.0.1:1002"
    access = found("runs", data_dir=tmp_path)
    assert access.target == "127.0.0.1:1001"
    claims = jwt.decode(access.token, secrets.jwt_secret, algorithms=["HS256"])
    assert claims["projects"] == {"shop": "OWNER"}


def test_the_stack_in_the_default_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    stack = DataDir(tmp_path / "playbook-runs")
    stack.path.mkdir()
    stack.make_secrets()
    stack.publish(INFO)
    assert found("runs").target == "127.0.0.1:1001"


def test_what_is_given_counts(tmp_path: Path, secrets: Secrets) -> None:
    assert found(target="example.com:443", token="mine", data_dir=tmp_path) == Access("example.com:443", "mine")
    assert found(token="mine", data_dir=tmp_path) == Access("127.0.0.1:1001", "mine")


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
    assert found() == Access("127.0.0.1:1001", "theirs")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST"])
def test_localhost_is_the_stacks_own_address(host: str, tmp_path: Path, secrets: Secrets) -> None:
    access = found(target=f"{host}:1001", data_dir=tmp_path)
    assert (access.target, bool(access.token)) == (f"{host}:1001", True)
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
    ("given", "told"),
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
def test_certificates_that_cannot_be_used_are_told(given: dict[str, str], told: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    authority.issue("other")
    good = {"ca_file": authority.file, "cert_file": certificate, "key_file": key}
    assert found(**good) == Access("127.0.0.1:50051", **good)
    with pytest.raises(CommandError, match=told):
        found(**{option: tmp_path / file for option, file in given.items()})
