"""gRPC takes no notice of an option that it does not know, so a name that is wrong shows only under load."""

import re
from pathlib import Path

import pytest
from grpc._cython import cygrpc

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r'"(grpc\.[a-z0-9_]+(?:\.[a-z0-9_]+)*)", ')


def options() -> set[str]:
    files = [file for room in ("servicekit", "runs_client", "devstack") for file in (ROOT / room).rglob("*.py")]
    return {name for file in files for name in OPTION.findall(file.read_text())}


@pytest.fixture(scope="module")
def library() -> bytes:
    return Path(cygrpc.__file__).read_bytes()


def test_the_options_are_found() -> None:
    assert {"grpc.keepalive_time_ms", "grpc.max_concurrent_streams", "grpc.service_config"} <= options()


@pytest.mark.parametrize("name", sorted(options()))
def test_the_installed_library_knows_the_option(name: str, library: bytes) -> None:
    assert name.encode() in library


def test_a_name_that_was_documented_and_never_existed_is_found_out(library: bytes) -> None:
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms" not in library
