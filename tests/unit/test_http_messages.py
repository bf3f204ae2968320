"""Requests as messages, messages as JSON and events, failed calls as problems."""

import json
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from playbooks.executor.v1.executor_service_pb2 import EstimatePlaybookResponse
from playbooks.runs.v1.run_pb2 import Draft, DraftItem, PlaybookRules, Run, RunMeta, RunProgress
from playbooks.runs.v1.runs_service_pb2 import ListRunsResponse, WatchRunResponse
from starlette.datastructures import Headers

from gateway import body
from gateway.answers import Answers
from gateway.app import EXECUTOR, RUNS
from gateway.encoder import Encoder, to_json
from gateway.events import HEARTBEAT, EventFormat
from gateway.problems import STATUS, Problem, camel_case
from gateway.request import build
from gateway.routes import Route, Routes
from servicekit.errors import STATUS_CODES

ROUTES = Routes([*RUNS, *EXECUTOR])
BASE = "/api/projects/p/automation-playbooks"
JSON = Headers({"content-type": "application/json"})


def request(method: str, path: str, query: str = "", content: Any = None) -> Any:
    route, values = ROUTES.find(method, f"{BASE}/{path}")
    return build(route, values, query.encode(), {} if content is None else content)


def refusal(method: str, path: str, query: str = "", content: Any = None) -> Problem:
    with pytest.raises(Problem) as caught:
        request(method, path, query, content)
    assert caught.value.status == 400
    return caught.value


# Requests


@pytest.mark.parametrize("names", [("playbookId", "runType", "scopeId"), ("playbook_id", "run_type", "scope_id")])
def test_queries_are_read_in_both_spellings(names: tuple[str, str, str]) -> None:
    query = f"{names[0]}=missing_seo_title&{names[1]}=APPLY&{names[2]}=a%2Bb+c&status=&limit=5&offset="
    message = request("GET", "runs", query)
    assert MessageToDict(message) == {
        "projectId": "p", "playbookId": "missing_seo_title", "runType": "APPLY", "scopeId": "a+b c", "limit": 5
    }  # fmt: skip


def test_fields_within_fields_and_repeated_ones_have_queries_too() -> None:
    query = "playbookId=x&rules.enabled=true&rules.find_replace.find=a&rules.findReplace.caseSensitive=1"
    query += "&rules.forbiddenPhrases=b&rules.forbiddenPhrases=c&rules.maxLength=60"
    rules = PlaybookRules(enabled=True, max_length=60, forbidden_phrases=["b", "c"])
    rules.find_replace.find, rules.find_replace.case_sensitive = "a", True
    assert request("GET", "estimate", query).rules == rules


@pytest.mark.parametrize(
    ("query", "field", "words"),
    [
        ("plabook_id=x", "plabook_id", "there is no query parameter plabook_id; there are playbookId, runType"),
        ("projectId=q", "projectId", "there is no query parameter"),  # it is in the path
        ("status=DONE", "status", "must be one of QUEUED, RUNNING"),
        ("limit=ten", "limit", "must be a whole number"),
        ("limit=1&limit=2", "limit", "is there twice"),
        ("runs.id=1", "runs.id", "there is no query parameter"),
        ("limit=99999999999", "limit", "limit"),
    ],
)
def test_queries_that_say_nothing_are_refused(query: str, field: str, words: str) -> None:
    problem = refusal("GET", "runs", query)
    assert words in problem.message
    assert [name for name, _ in problem.fields] == [field]


@pytest.mark.parametrize("query", ["a=%FF", "&".join(f"limit={n}" for n in range(600)), "limit=\ud800"])
def test_query_strings_that_cannot_be_read_are_refused(query: str) -> None:
    route, values = ROUTES.find("GET", f"{BASE}/runs")
    with pytest.raises(Problem):
        build(route, values, query.encode(errors="surrogatepass"), None)


def test_a_body_is_the_whole_request_and_leaves_no_query() -> None:
    message = request("POST", "apply", content={"playbookId": "x", "scope_id": "s", "rulesHash": "r"})
    assert (message.project_id, message.playbook_id, message.scope_id) == ("p", "x", "s")
    assert "this route has none" in refusal("POST", "x/preview", "sampleSize=3", {}).message


def test_the_path_and_the_body_may_not_contradict_each_other() -> None:
    assert request("POST", "x/runs", content={"playbookId": "x"}).playbook_id == "x"
    assert refusal("POST", "x/runs", content={"playbookId": "y"}).fields[0][0] == "playbookId"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"runTyp": "APPLY"}, "runTyp"),
        ({"meta": {"sampleSise": 3}}, "meta.sampleSise"),
        ({"meta": {"rules": {"findReplace": {"x": 1}}}}, "meta.rules.findReplace.x"),
        ({"runType": "SOMETHING"}, "runType"),
        ({"meta": {"sampleSize": "many"}}, "meta.sampleSize"),
        ({"meta": {"sampleSize": 1e99}}, "meta.sampleSize"),
        ({"meta": {"sampleSize": 2**70}}, "meta.sampleSize"),
        ({"scopeId": 7}, "scopeId"),
        ([], ""),
        ("x", ""),
        ({"scopeId": "\ud800"}, ""),
    ],
)
def test_bodies_that_are_wrong_are_refused_with_the_field_and_no_list_of_ours(content: Any, field: str) -> None:
    problem = refusal("POST", "x/runs", content=content)
    assert "\n" not in problem.message
    assert "Available Fields" not in problem.message
    assert not field or problem.fields[0][0] == field


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "no JSON"),
        (b'{"a":1,"a":2}', "there twice"),
        (b'{"a":NaN}', "no number"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' + b"9" * 10_000 + b"}", "no JSON"),
    ],
)
def test_bodies_that_are_no_json_are_refused(text: bytes, words: str) -> None:
    with pytest.raises(Problem, match=words):
        body.parse(JSON, text)


def test_deep_json_is_refused_by_messages_too() -> None:
    deep: Any = {}
    for _ in range(5_000):
        deep = {"meta": deep}
    assert refusal("POST", "x/runs", content=deep).reason == "VALIDATION_FAILED"


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "text/plain"}, {"content-type": "application/json", "content-encoding": "gzip"}]
)
def test_other_kinds_of_bodies_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Problem) as caught:
        body.parse(Headers(headers), b"{}")
    assert caught.value.status == 415
    assert body.parse(Headers(headers), b" ") == {}


# JSON


def run(**fields: Any) -> Run:
    return Run(id="r-1", project_id="p", status=Run.RUNNING, sequence=7, **fields)


def test_numbers_are_numbers_and_what_is_unset_is_there() -> None:
    message = run(progress=RunProgress(completed=2**40), meta=RunMeta(sample_size=3))
    message.created_at.CopyFrom(Timestamp(seconds=1_700_000_000, nanos=120_000_000))
    value = json.loads(to_json(Encoder().value(message)))
    assert (value["sequence"], value["progress"], value["aiUsed"]) == (7, {"completed": 2**40, "total": 0}, False)
    assert (value["createdAt"], value["finishedAt"], value["result"]) == ("2023-11-14T22:13:20.120Z", None, None)
    assert (value["meta"]["sampleSize"], value["meta"]["deadlineSeconds"]) == (3, None)
    assert (value["status"], value["runType"]) == ("RUNNING", "TYPE_UNSPECIFIED")
    assert len(value) == len(Run.DESCRIPTOR.fields)


def test_fields_are_bare_where_the_route_says_so() -> None:
    encoder = Encoder()
    assert [one["id"] for one in encoder.field(ListRunsResponse(runs=[run(), run()]), "runs")] == ["r-1", "r-1"]
    assert encoder.field(WatchRunResponse(), "run") is None
    assert encoder.field(EstimatePlaybookResponse(reasons=["a"]), "reasons") == ["a"]


@given(st.text(), st.integers(0, 2**53 - 1), st.lists(st.text(), max_size=3), st.sampled_from([0, 1, 2, 3, 4, 77]))
def test_it_is_what_proto_json_says_but_for_numbers(text: str, number: int, texts: list[str], status: Any) -> None:
    draft = Draft(id=text, status=status, items=[DraftItem(product_id=text, rule_warnings=texts)])
    draft.counts.affected_total = number
    expected = MessageToDict(draft, always_print_fields_with_no_presence=True)
    expected["counts"] = {name: int(value) for name, value in expected["counts"].items()}
    value = json.loads(to_json(Encoder().value(draft)))
    assert {name: one for name, one in value.items() if one is not None} == expected


# Answers


def answer(route: Route, response: Any, path: str = "/x", query: str = "", **headers: str) -> Any:
    given_headers = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return Answers(ROUTES, Encoder()).answer(route, response, path, query.encode(), given_headers)


@pytest.mark.parametrize("given_tag", ['"7"', 'W/"7"', '"1", "7"', "*"])
def test_who_has_a_run_is_told_so(given_tag: str) -> None:
    route = ROUTES.find("GET", f"{BASE}/runs/r")[0]
    response = route.rpc.output_type._concrete_class(run=run())
    known = answer(route, response, if_none_match=given_tag)
    assert (known.status_code, known.headers["etag"], known.body) == (304, '"7"', b"")
    assert answer(route, response, if_none_match='"6"').status_code == 200


def test_the_link_to_the_next_page_keeps_the_filters() -> None:
    route = ROUTES.find("GET", f"{BASE}/runs")[0]
    response = ListRunsResponse(runs=[run()], next_page_token="a+b")
    link = answer(route, response, "/r", "playbookId=x&offset=5&pageToken=old&limit=2").headers["link"]
    assert link == '</r?playbookId=x&limit=2&pageToken=a%2Bb>; rel="next"'
    assert "link" not in answer(route, ListRunsResponse()).headers


# Problems


def test_every_reason_has_a_status_of_http() -> None:
    assert {code for code in STATUS_CODES.values() if code not in STATUS} == {grpc.StatusCode.INTERNAL}


def test_a_problem_has_what_new_and_old_clients_read() -> None:
    problem = Problem.invalid("limit must be a whole number", "limit")
    response = problem.response("id-1")
    content = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert {name: content[name] for name in ("status", "title", "detail", "reason", "fields", "requestId")} == {
        "status": 400, "title": "Bad Request", "detail": problem.message, "reason": "VALIDATION_FAILED",
        "fields": [{"field": "limit", "description": problem.message}], "requestId": "id-1",
    }  # fmt: skip
    assert [content[name] for name in ("message", "code", "error", "statusCode")] == [
        problem.message, "VALIDATION_FAILED", "Bad Request", 400
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "name"), [("meta.sample_size", "meta.sampleSize"), ("products[3].id", "products[3].id"), ("id", "id")]
)
def test_fields_are_named_as_json_names_them(path: str, name: str) -> None:
    assert camel_case(path) == name


# Events


def test_messages_are_events_with_the_sequence_as_id() -> None:
    events = EventFormat(ROUTES.find("GET", f"{BASE}/runs/r:watch")[0], Encoder())
    lines = events.frame(WatchRunResponse(kind=WatchRunResponse.UPDATED, run=run())).decode().split("\n")
    assert lines[:2] == ["id: 7", "event: updated"]
    assert json.loads(lines[2].removeprefix("data: "))["id"] == "r-1"
    assert lines[3:] == ["", ""]
    assert events.frame(WatchRunResponse(kind=WatchRunResponse.HEARTBEAT, run=run())) == HEARTBEAT


def test_the_last_event_is_where_a_stream_goes_on() -> None:
    events = EventFormat(ROUTES.find("GET", f"{BASE}/runs/r:watch")[0], Encoder())
    message = request("GET", "runs/r:watch", "afterSequence=3")
    assert not events.resume(message, "")
    assert message.after_sequence == 3
    assert events.resume(message, "5")
    assert message.after_sequence == 5
    events.restart(message)
    assert not message.HasField("after_sequence")
    for wrong in ("x", str(2**70), "1.5"):
        with pytest.raises(Problem):
            events.resume(message, wrong)
