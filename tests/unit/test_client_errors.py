"""The errors of the client library: what a status becomes, and which reasons its methods name."""

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from runs_client.client import RunsClient
from runs_client.errors import DOMAIN, ServiceCallError, Violation
from runs_client.executor import ExecutorClient
from runs_client.service_client import ServiceClient
from servicekit import errors


class TestErrors:
    """What a rich status becomes, from our services and from others."""

    @staticmethod
    def failed(*details: Message, code: int = 14) -> grpc.aio.AioRpcError:
        status = status_pb2.Status(code=code, message="said")
        for detail in details:
            status.details.add().Pack(detail)
        trailers = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
        return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, details="said")

    def test_the_domain_is_that_of_the_services(self) -> None:
        assert DOMAIN == errors.DOMAIN

    def test_a_proxys_error_info_gives_no_reason(self) -> None:
        info = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain="googleapis.com", metadata={"a": "b"})
        bad = error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field="x")])
        retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3))
        error = ServiceCallError.from_call(self.failed(info, bad, retry), "here:1")
        assert (error.reason, error.metadata, error.violations, error.message) == ("", {}, (), "said")
        assert error.retry_after == 3.0

    def test_without_retry_info_there_is_no_time_to_retry(self) -> None:
        info = error_details_pb2.ErrorInfo(reason="SHUTTING_DOWN", domain=DOMAIN)
        error = ServiceCallError.from_call(self.failed(info))
        assert (error.reason, error.retry_after) == ("SHUTTING_DOWN", None)

    def test_trailers_that_contradict_the_status_are_not_read(self) -> None:
        info = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain=DOMAIN)
        error = ServiceCallError.from_call(self.failed(info, code=5))
        assert (error.code, error.reason, error.message) == (grpc.StatusCode.UNAVAILABLE, "", "said")

    @pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
    def test_it_comes_whole_out_of_another_process(self, copied: Callable[[Exception], Any]) -> None:
        error = ServiceCallError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "QUEUE_FULL",
            "said",
            violations=(Violation("x", "too many"),),
            metadata={"run_id": "r"},
            retry_after=2.0,
            target="here:1",
        )
        again = copied(error)
        assert type(again) is ServiceCallError
        assert (str(again), vars(again)) == (str(error), vars(error))

    def test_a_renamed_error_keeps_the_rest(self) -> None:
        error = ServiceCallError(
            grpc.StatusCode.UNAVAILABLE, "R", "m", metadata={"a": "b"}, retry_after=2.0, target="here:1"
        ).with_fields_renamed(str.upper)
        assert (error.message, error.metadata, error.retry_after, error.target) == ("M", {"a": "b"}, 2.0, "here:1")


def public_methods() -> list[Any]:
    return [
        pytest.param(method, id=f"{client.__name__}.{name}")
        for client in (RunsClient, ExecutorClient)
        for name, method in vars(client).items()
        if not name.startswith("_")
    ]


def raised_by(method: Any) -> set[str]:
    """The reasons that a method's docstring names."""
    _, _, raised = " ".join(method.__doc__.split()).partition("Raises ServiceCallError: ")
    return set(re.findall(r"\b[A-Z]+_[A-Z_]+\b", raised))


@pytest.mark.parametrize("method", public_methods())
def test_the_docstring_of_each_method_names_the_reasons_it_raises(method: Any) -> None:
    named = raised_by(method)
    assert named
    assert named <= set(errors.Reason)


def test_every_reason_stands_in_a_docstring() -> None:
    documented = " ".join(method.values[0].__doc__ for method in public_methods()) + (ServiceClient.__doc__ or "")
    assert [reason for reason in errors.Reason if reason not in documented] == []
