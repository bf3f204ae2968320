"""The small parts: ids, errors, payloads, permissions, log lines."""

import json
import logging
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from uuid import UUID

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from playbooks.executor.v1 import catalog_service_pb2, executor_service_pb2
from playbooks.runs.v1 import runs_service_pb2

from executor_service.permissions import PERMISSIONS as EXECUTOR_PERMISSIONS
from runs_service.permissions import PERMISSIONS as RUNS_PERMISSIONS
from runs_service.permissions import role_for
from servicekit.auth.principals import Role
from servicekit.errors import DOMAIN, STATUS_CODES, Reason, ServiceError, Violation
from servicekit.ids import uuid7
from servicekit.postgres.notifications import PAYLOAD_LIMIT, payloads
from servicekit.telemetry import logs
from servicekit.telemetry.metrics import Metrics

# Ids


def test_ids_are_version_7_differ_and_sort_by_time() -> None:
    first = UUID(uuid7())
    assert (first.version, first.variant) == (7, "specified in RFC 4122")
    assert abs((first.int >> 80) - time.time() * 1000) < 5_000
    while UUID(uuid7()).int >> 80 == first.int >> 80:
        pass  # until the next millisecond
    assert uuid7() > str(first)
    assert len({uuid7() for _ in range(1000)}) == 1000


# Errors


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_and_always_an_error_info(reason: Reason) -> None:
    assert STATUS_CODES[reason] is not grpc.StatusCode.OK
    status = ServiceError(reason, "what to do").to_status()
    (packed,) = [value for key, value in status.trailing_metadata if key == "grpc-status-details-bin"]
    rich = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    assert rich.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, reason.name)
    assert rich.code == status.code.value[0]


def test_violations_and_the_time_to_retry_are_in_the_details() -> None:
    from datetime import timedelta

    error = ServiceError(
        Reason.VALIDATION_FAILED, "no", violations=(Violation("a.b[2]", "bad"),), retry_after=timedelta(seconds=1.5)
    )
    rich = status_pb2.Status.FromString(dict(error.to_status().trailing_metadata)["grpc-status-details-bin"])
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    assert rich.details[1].Unpack(bad)
    assert rich.details[2].Unpack(retry)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a.b[2]", "bad")]
    assert retry.retry_delay.ToTimedelta() == timedelta(seconds=1.5)


# Notifications


@given(st.lists(st.text(alphabet="0123456789abcdef-", min_size=1, max_size=40), max_size=800))
def test_payloads_hold_every_word_once_in_order_within_the_limit(words: list[str]) -> None:
    sent = payloads(words)
    assert " ".join(sent).split() == words
    assert all(0 < len(payload.encode()) <= PAYLOAD_LIMIT for payload in sent)


def test_as_few_payloads_as_the_limit_allows() -> None:
    assert len(payloads(["x" * 36] * 213)) == 1
    assert len(payloads(["x" * 36] * 214)) == 2


# Permissions


@pytest.mark.parametrize(
    ("files", "permissions"),
    [
        ([runs_service_pb2], RUNS_PERMISSIONS),
        ([executor_service_pb2, catalog_service_pb2], EXECUTOR_PERMISSIONS),
    ],
    ids=["runs", "executor"],
)
def test_the_permissions_name_every_method_and_nothing_else(files: list[object], permissions: dict[str, Role]) -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
        for method in service.methods
    }
    assert set(permissions) == methods


def test_only_an_owner_applies() -> None:
    from playbooks.runs.v1.run_pb2 import Run

    assert [role_for(t) for t in (Run.PREVIEW_GENERATE, Run.DRAFT_GENERATE, Run.APPLY)] == [
        Role.EDITOR,
        Role.EDITOR,
        Role.OWNER,
    ]


# Logs


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logs.bind(request_id="")


@pytest.mark.usefixtures("_logging_as_before")
def test_a_log_line_is_one_json_object_with_message_and_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="runs-service", format="json", level="INFO")
    logs.bind(request_id="r-1")
    logging.getLogger("x.y").info("Created run %s", "7", extra={"run_id": "7"})
    logging.getLogger("x.y").debug("not this one")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x.y").exception("broken: %s", "é")
    created, broken = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert created.items() >= {
        "message": "Created run 7", "level": "info", "logger": "x.y", "service": "runs-service",
        "request_id": "r-1", "run_id": "7",
    }.items()  # fmt: skip
    assert broken["message"] == "broken: é"
    assert "ValueError: two\nlines" in broken["exception"]
    assert logs.bound("request_id") == "r-1"
    assert logs.bound("nothing") == ""


@pytest.mark.usefixtures("_logging_as_before")
def test_a_line_is_written_before_the_call_returns(capsys: pytest.CaptureFixture[str]) -> None:
    """A process that is killed right after it leaves the line behind."""
    logs.configure(service="runs-service", format="json", level="INFO")
    for message in ("one", "two"):
        logging.getLogger("x").info(message)
        assert json.loads(capsys.readouterr().err)["message"] == message


@pytest.mark.usefixtures("_logging_as_before")
def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(service="runs-service", format="console", level="INFO")
    logging.getLogger("x").info("hello")
    line = capsys.readouterr().err
    assert "hello" in line
    assert not line.startswith("{")
    assert sys.stderr.isatty() or "\x1b[" not in line


# Measurements


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_measurements_are_served_at_every_form_of_address(host: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    Metrics().serve(f"{host}:{port}")
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        assert b"broker_connected" in answer.read()
