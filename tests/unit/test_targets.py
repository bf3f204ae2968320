"""Addresses that somebody typed: what is missing is named."""

import pytest

from runs_client.targets import require_target


@pytest.mark.parametrize(
    "target",
    ["foo:50051", "127.0.0.1:1", "[::1]:65535", "dns:///foo:1", "ipv4:127.0.0.1:1,127.0.0.1:2", "unix:/run/runs.sock"],
)
def test_an_address_with_a_port_and_grpcs_own_forms_are_taken(target: str) -> None:
    require_target(target)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("foo", "the port is missing in 'foo': give HOST:PORT, for instance foo:50051"),
        ("127.0.0.1", "the port is missing"),
        ("foo:", "the port is missing in 'foo:': give HOST:PORT, for instance foo:50051"),
        ("[::1]", "the port is missing"),
        ("", "the port is missing"),
        (":50051", "the host is missing"),
        ("foo:bar", "bar is no port"),
        ("foo:0", "0 is no port"),
        ("foo:65536", "65536 is no port"),
        ("foo:-1", "-1 is no port"),
        ("foo:١", "is no port"),
        ("::1:50051", "brackets"),
        ("http://foo:50051", "is a URL"),
    ],
)
def test_what_is_missing_is_named(target: str, problem: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT") as refusal:
        require_target(target)
    assert problem in str(refusal.value)
