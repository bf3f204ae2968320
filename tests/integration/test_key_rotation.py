"""The keys of users' tokens are replaced under a runs-service that runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from playbooks.runs.v1.runs_service_pb2 import ListRunsRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.valkey import Valkey
from tests.support.forking import Forks
from tests.support.runs_process import Service, serving
from tests.support.shop import refusal
from tests.support.tokens import claims, public_pem
from tests.support.waiting import eventually

OLD, NEW = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()


def replace(file: Path, content: bytes) -> None:
    draft = file.with_suffix(".draft")
    draft.write_bytes(content)
    draft.replace(file)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.pem"
    replace(file, public_pem(OLD))
    return file


@pytest.fixture
async def service(
    runs_forks: Forks, key_file: Path, runs_database_url: str, valkey_server: Valkey, tmp_path: Path
) -> AsyncIterator[Service]:
    environment = {
        "RUNS_DATABASE_URL": runs_database_url,
        "BROKER_URL": valkey_server.url,
        "AUTH_JWT_PUBLIC_KEY_FILE": str(key_file),
    }
    service = Service(runs_forks, tmp_path / "log", environment)
    async with grpc.aio.insecure_channel(service.address) as channel:
        await eventually(lambda: serving(channel))
    yield service
    service.stop()


async def test_a_replaced_key_file_counts_without_a_restart(service: Service, key_file: Path) -> None:
    tokens = {key: jwt.encode(claims(), key, algorithm="EdDSA") for key in (OLD, NEW)}
    async with grpc.aio.insecure_channel(service.address) as channel:
        list_runs = RunsServiceStub(channel).ListRuns

        async def accepted(key: ed25519.Ed25519PrivateKey) -> bool:
            metadata = (("authorization", f"Bearer {tokens[key]}"),)
            try:
                await list_runs(ListRunsRequest(project_id="p"), metadata=metadata, timeout=10)
            except grpc.aio.AioRpcError as error:
                if refusal(error).reason != "TOKEN_INVALID":
                    raise
                return False
            return True

        async def only(*keys: ed25519.Ed25519PrivateKey) -> bool:
            return {key for key in (OLD, NEW) if await accepted(key)} == set(keys)

        async def only_with_a_warning() -> bool:
            assert await only(OLD, NEW)
            return any("go on being accepted" in line["message"] for line in service.lines())

        assert await only(OLD)
        replace(key_file, public_pem(OLD) + public_pem(NEW))
        await eventually(lambda: only(OLD, NEW))
        replace(key_file, public_pem(NEW)[:50])  # in the middle of being written
        await eventually(only_with_a_warning)
        replace(key_file, public_pem(NEW))
        await eventually(lambda: only(NEW))
    assert service.process.poll() is None
    assert "Traceback" not in service.log.read_text()
