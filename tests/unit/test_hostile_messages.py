"""No request blocks the event loop for more than 50 ms, with any content."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from playbooks.executor.v1.catalog_service_pb2 import Product, PutProductsRequest
from playbooks.executor.v1.executor_service_pb2 import CancelRunsRequest, EstimatePlaybookRequest
from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1.run_pb2 import PlaybookRules, RunMeta
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from executor_service.settings import ExecutorSettings
from runs_service.settings import RunsSettings
from servicekit.errors import ServiceError
from servicekit.rpc.interceptors.base import unwrap
from servicekit.rpc.interceptors.decoding import Decoding
from servicekit.rpc.interceptors.validation import Validation
from servicekit.rpc.validation import violations_of
from tests.support.processor import least_seconds

LOOP = 0.05 * 3  # seconds of a core that others use too; what this keeps out took seconds
RUNS = RunsSettings.model_fields["max_request_bytes"].default
EXECUTOR = ExecutorSettings.model_fields["max_request_bytes"].default


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def submessage(field: int, body: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(body)) + body


def filled(prefix: bytes, unit: bytes, size: int) -> bytes:
    return prefix + unit * ((size - len(prefix)) // len(unit))


def phrases(size: int) -> bytes:
    """Return the field `meta` with as many empty forbidden phrases as fit into so many bytes."""
    return submessage(7, submessage(2, b"\x32\x00" * ((size - 100) // 2)))


PROJECT = submessage(1, b"p")
UNKNOWN = b"\xa0\x06\x01"  # field 100, a varint
HOSTILE: dict[str, tuple[type[Message], bytes]] = {
    "empty phrases": (CreateRunRequest, PROJECT + phrases(RUNS)),
    "unknown fields": (CreateRunRequest, filled(PROJECT, UNKNOWN, RUNS)),
    "one field over and over": (CreateRunRequest, filled(b"", PROJECT, RUNS)),
    "empty products": (PutProductsRequest, filled(PROJECT, b"\x12\x00", EXECUTOR)),
    "a thousand empty products": (PutProductsRequest, PROJECT + b"\x12\x00" * 1_000),
    "products with unknown fields": (
        PutProductsRequest,
        PROJECT + submessage(2, UNKNOWN * 300) * 1_000,
    ),
    "one product of unknown fields": (PutProductsRequest, PROJECT + submessage(2, UNKNOWN * 340_000)),
    "unknown fields beside products": (PutProductsRequest, filled(PROJECT, UNKNOWN, EXECUTOR)),
    "empty rules": (EstimatePlaybookRequest, PROJECT + submessage(3, b"\x32\x00" * 500_000)),
    "empty jobs": (CancelRunsRequest, filled(b"", b"\x0a\x00", EXECUTOR)),
}


def served(kind: type[Message]) -> Callable[[bytes], Message | None]:
    """Return what decodes and validates a request and hands it on."""

    async def behaviour(request: Message, _context: Any) -> Message:
        return request

    handler = grpc.unary_unary_rpc_method_handler(behaviour, kind.FromString, None)
    for interceptor in (Validation({}), Decoding()):
        handler = interceptor.wrap(handler, "/a.B/C")
    serve = unwrap(handler)

    def run(body: bytes) -> Message | None:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(serve(body, None))  # type: ignore[arg-type]
        finally:
            loop.close()

    return run


@pytest.mark.parametrize(("kind", "body"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_request_is_refused_within_a_moment(kind: type[Message], body: bytes) -> None:
    serve = served(kind)

    def refuse() -> None:
        with pytest.raises(ServiceError) as caught:
            serve(body)
        assert len(caught.value.violations) <= 20
        assert len(caught.value.to_status().trailing_metadata[0][1]) < 8_000

    assert least_seconds(refuse) < LOOP


def test_a_valid_request_of_the_largest_size_is_served_within_a_moment() -> None:
    rules = PlaybookRules(forbidden_phrases=["𝔸" * 200] * 100, prefix="𝔸" * 500, suffix="𝔸" * 500)
    rules.find_replace.find = rules.find_replace.replace = "𝔸" * 1_000
    run = CreateRunRequest(project_id="𝔸" * 200, playbook_id="missing_seo_title", run_type=1, meta=RunMeta(rules=rules))
    run.scope_id = run.rules_hash = "𝔸" * 64
    run.idempotency_key = "𝔸" * 255
    assert run.ByteSize() < RUNS
    product = Product(id="𝔸" * 255, external_id="𝔸" * 255, title="𝔸" * 1_000, description="𝔸" * 65_536)
    product.seo_title, product.seo_description = "𝔸" * 1_000, "𝔸" * 5_000
    largest = PutProductsRequest(project_id="𝔸" * 200, products=[product])
    assert largest.ByteSize() < EXECUTOR
    many = PutProductsRequest(
        project_id="p", products=[Product(id=f"{n}", title="t", description="d" * 900) for n in range(1_000)]
    )
    long = PutProductsRequest(
        project_id="p", products=[Product(id=f"{'x' * 250}{n}", title="\x07" * 300) for n in range(1_000)]
    )
    for message in (run, largest, many, long):
        serve, body = served(type(message)), message.SerializeToString()
        assert serve(body) == message
        assert least_seconds(lambda: serve(body)) < LOOP  # noqa: B023  # called here


def test_lists_are_counted_before_their_items_are_made() -> None:
    serve = served(PutProductsRequest)
    for count in (1_001, 100_000):
        with pytest.raises(ServiceError) as caught:
            serve(PROJECT + b"\x12\x00" * count)
        assert [(violation.field, violation.description) for violation in caught.value.violations] == [
            ("products", "must have at most 1,000 items")
        ]


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_served_or_refused(body: bytes) -> None:
    for kind in (PutProductsRequest, CreateRunRequest, CancelRunsRequest):
        serve = served(kind)
        try:
            request = serve(body)
        except ServiceError as error:
            assert error.reason == "VALIDATION_FAILED"  # noqa: PT017
        else:
            assert request == kind.FromString(body)


@pytest.mark.parametrize("character", ["\n", "\x1b", "\x7f", "\x9b", "\u2028"])
def test_identifiers_have_no_control_characters(character: str) -> None:
    text = f"a{character}b"
    run = CreateRunRequest(project_id=text, playbook_id="missing_seo_title", run_type=1, idempotency_key=text)
    assert [violation.field for violation in violations_of(run)] == ["project_id", "idempotency_key"]
    products = PutProductsRequest(project_id="p", products=[Product(id=text, external_id=text, title=text)])
    assert [violation.field for violation in violations_of(products)] == ["products[0].id", "products[0].external_id"]
    job = RunJob(project_id="p", created_by_user_id=text)
    assert "created_by_user_id" in [violation.field for violation in violations_of(job)]


def test_of_more_than_twenty_violations_one_more_is_returned() -> None:
    products = PutProductsRequest(project_id="p", products=[Product() for _ in range(500)])
    assert len(violations_of(products)) == 21
