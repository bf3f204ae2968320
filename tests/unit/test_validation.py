import uuid
from typing import Any

import pytest
from google.protobuf.message import Message
from playbooks.executor.v1.catalog_service_pb2 import PutProductsRequest
from playbooks.executor.v1.executor_service_pb2 import ExecuteRunRequest
from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest, GetRunRequest, ListRunsRequest, WatchRunRequest

from runs_service.request_rules import RULES
from servicekit.errors import Violation
from servicekit.rpc.validation import violations_of
from tests.support.runs import request

CREATE_RUN = "/playbooks.runs.v1.RunsService/CreateRun"


def job_with(**fields: Any) -> ExecuteRunRequest:
    job = RunJob(run_id=str(uuid.uuid4()), project_id="p", playbook_id="x", run_type=Run.APPLY, **fields)
    return ExecuteRunRequest(job=job)


def violations(message: Message) -> list[Violation]:
    """Return what Validation finds in a request of runs_service."""
    found = violations_of(message)
    return found + RULES[CREATE_RUN](message) if isinstance(message, CreateRunRequest) else found


def fields(message: Message) -> list[str]:
    return [violation.field for violation in violations(message)]


def test_a_good_request_has_no_violations() -> None:
    assert fields(request(meta=RunMeta(sample_size=50, rules=PlaybookRules(forbidden_phrases=["a"])))) == []
    assert fields(GetRunRequest(project_id="p", run_id=str(uuid.uuid4()))) == []


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (request(project_id=""), "project_id"),
        (request(project_id="x" * 201), "project_id"),
        (request(playbook_id="other"), "playbook_id"),
        (request(run_type=0), "run_type"),
        (request(run_type=9), "run_type"),
        (request(idempotency_key=""), "idempotency_key"),
        (request(idempotency_key="x" * 256), "idempotency_key"),
        (request(meta=RunMeta(sample_size=0)), "meta.sample_size"),
        (request(meta=RunMeta(sample_size=51)), "meta.sample_size"),
        (request(run_type=Run.APPLY, rules_hash="h"), "scope_id"),
        (request(run_type=Run.APPLY, scope_id="s"), "rules_hash"),
        (request(run_type=Run.DRAFT_GENERATE, rules_hash="h"), "scope_id"),
        (request(meta=RunMeta(rules=PlaybookRules(max_length=-1))), "meta.rules.max_length"),
        (request(meta=RunMeta(rules=PlaybookRules(forbidden_phrases=["a", ""]))), "meta.rules.forbidden_phrases[1]"),
        (request(meta=RunMeta(rules=PlaybookRules(mode="a b"))), "meta.rules.mode"),
        (GetRunRequest(project_id="p", run_id="7"), "run_id"),
        (job_with(scope_id="x" * 65), "job.scope_id"),
        (job_with(rules_hash="x" * 65), "job.rules_hash"),
        (ListRunsRequest(project_id="p", limit=-1), "limit"),
        (ListRunsRequest(project_id="p", offset=-1), "offset"),
        (ListRunsRequest(project_id="p", status=99), "status"),  # type: ignore[arg-type]
        (WatchRunRequest(project_id="p", run_id=str(uuid.uuid4()), after_sequence=-1), "after_sequence"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_bad_field_is_named_by_its_path(message: Message, field: str) -> None:
    assert fields(message) == [field]
    assert violations(message)[0].description


def test_nul_characters_are_found_wherever_they_are() -> None:
    rules = PlaybookRules(
        prefix="a\0",
        forbidden_phrases=["ok", "b\0"],
        find_replace=PlaybookRules.FindReplace(find="x", replace="\0"),
    )
    assert sorted(fields(request(project_id="\0", meta=RunMeta(rules=rules)))) == [
        "meta.rules.find_replace.replace",
        "meta.rules.forbidden_phrases[1]",
        "meta.rules.prefix",
        "project_id",
    ]


def test_nul_characters_are_found_in_repeated_messages() -> None:
    products = PutProductsRequest(project_id="p")
    products.products.add(id="1", title="fine")
    products.products.add(id="2", title="bad\0")
    assert fields(products) == ["products[1].title"]


def test_unknown_fields_are_found_at_every_depth() -> None:
    unknown = bytes([0b11111_000 | 0b10000000, 0b111, 1])  # field 127, a varint
    top = CreateRunRequest.FromString(request().SerializeToString() + unknown)
    assert fields(top) == ["#127"]
    nested = request()
    nested.meta.ParseFromString(unknown)
    assert fields(nested) == ["meta.#127"]
    repeated = PutProductsRequest(project_id="p")
    repeated.products.add(id="1", title="t").MergeFromString(unknown)
    assert fields(repeated) == ["products[0].#127"]


def test_everything_that_is_wrong_is_reported_at_once() -> None:
    assert sorted(fields(request(project_id="", playbook_id="x", run_type=Run.APPLY))) == [
        "playbook_id",
        "project_id",
        "rules_hash",
        "scope_id",
    ]


def test_a_field_that_must_be_given_must_not_be_empty() -> None:
    assert violations_of(GetRunRequest(run_id=str(uuid.uuid4()))) == [Violation("project_id", "must not be empty")]
