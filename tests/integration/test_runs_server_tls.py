"""The real runs-service process with TLS: who gets an answer, and which error the others get."""

import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from playbooks.runs.v1.runs_service_pb2 import GetRunRequest
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from runs_client.client import RunsClient
from runs_client.errors import ServiceCallError
from runs_client.failures import explain
from tests.support.certificates import Authority
from tests.support.forking import Forks
from tests.support.runs_process import UNKNOWN_RUN, Service, metadata, refused, serving, token
from tests.support.waiting import eventually


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
async def test_tls(runs_forks: Forks, mutual: bool, environment: dict[str, str], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    if mutual:
        tls["TLS_CLIENT_CA_FILE"] = str(authority.file)
    service = Service(runs_forks, tmp_path / "log", environment | tls)
    client_certificate, client_key = authority.issue("client")
    root = authority.file.read_bytes()
    with_certificate = grpc.ssl_channel_credentials(root, client_key.read_bytes(), client_certificate.read_bytes())
    try:
        async with grpc.aio.secure_channel(service.address, with_certificate) as channel:
            await eventually(lambda: serving(channel))
            async with refused(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND"):
                await RunsServiceStub(channel).GetRun(
                    GetRunRequest(project_id="p", run_id=UNKNOWN_RUN), metadata=metadata(), timeout=20
                )
        without = grpc.ssl_channel_credentials(root)
        async with grpc.aio.secure_channel(service.address, without) as channel:
            assert await serving(channel) is not mutual
        async with grpc.aio.insecure_channel(service.address) as channel:
            assert not await serving(channel)

        own = {"cert_file": client_certificate, "key_file": client_key}
        assert "has no run" in await client_message(service, ca_file=authority.file, **own)
        without_certificate = await client_message(service, ca_file=authority.file)
        assert ("has no run" in without_certificate) is not mutual
        assert ("--cert-file" in without_certificate) is mutual
        assert "--ca-file" in await client_message(service)
        stranger = await client_message(service, ca_file=Authority(tmp_path / "stranger").file, **own)
        assert stranger.startswith(f"no TLS with {service.address}: check --ca-file")
        assert "certificate" in stranger.rpartition("SSL_ERROR")[2]  # in gRPC's own words

        options = ["--ca-file", authority.file, "--cert-file", client_certificate, "--key-file", client_key]
        assert "has no run" in command_output(service, *options)
        assert probe(service, *options) == ""
        assert bool(probe(service, "--ca-file", authority.file)) is mutual
        assert probe(service).startswith(f"no answer from {service.address}: UNAVAILABLE: ")
    finally:
        service.stop()


async def client_message(service: Service, **tls: Path) -> str:
    """Return what our client prints about a run that does not exist."""
    async with RunsClient(service.address, token=token(), **tls) as client:
        with pytest.raises(ServiceCallError) as refusal:
            await client.get("p", UNKNOWN_RUN)
    return explain(refusal.value)


def command_output(service: Service, *options: object) -> str:
    asking = ["get", UNKNOWN_RUN, "--project", "p", "--target", service.address, "--token", token(), *options]
    command = [sys.executable, "-m", "runs_client", *map(str, asking)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def probe(service: Service, *options: object) -> str:
    """Return why the probe says that the service does not serve; "" when it serves."""
    command = [sys.executable, "-m", "servicekit.health_probe", service.address, *map(str, options)]
    probed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (probed.returncode, bool(probed.stderr)) in ((0, False), (1, True)), probed
    return probed.stderr
