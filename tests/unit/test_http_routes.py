"""Which route a path takes, and that every route of the protos is one."""

import pytest

from gateway.app import EXECUTOR, RUNS
from gateway.problems import Problem
from gateway.routes import Routes
from gateway.template import Template

BASE = "/api/projects/p/automation-playbooks"
ROUTES = Routes([*RUNS, *EXECUTOR])


@pytest.mark.parametrize(
    ("method", "path", "rpc", "values"),
    [
        ("POST", "missing_seo_title/runs", "CreateRun", {"playbook_id": "missing_seo_title"}),
        ("GET", "runs", "ListRuns", {}),
        ("GET", "runs/r-1", "GetRun", {"run_id": "r-1"}),
        ("GET", "runs/r-1:watch", "WatchRun", {"run_id": "r-1"}),
        ("POST", "runs/r-1:cancel", "CancelRun", {"run_id": "r-1"}),
        ("POST", "runs/r-1:retry", "RetryRun", {"run_id": "r-1"}),
        ("GET", "runs/r-1/items", "ListRunItems", {"run_id": "r-1"}),
        ("POST", "x/preview", "PreviewPlaybook", {"playbook_id": "x"}),
        ("POST", "x/apply", "ApplyPlaybook", {"playbook_id": "x"}),
        ("POST", "apply", "ApplyPlaybook", {}),
        ("GET", "x/estimate", "EstimatePlaybook", {"playbook_id": "x"}),
        ("POST", "x/estimate", "EstimatePlaybook", {"playbook_id": "x"}),
        ("GET", "estimate", "EstimatePlaybook", {}),
        ("GET", "x/drafts/latest", "GetLatestDraft", {"playbook_id": "x"}),
        ("GET", "x/draft/latest", "GetLatestDraft", {"playbook_id": "x"}),
        ("GET", "drafts/d-1", "GetDraft", {"draft_id": "d-1"}),
        ("GET", "products", "ListProducts", {}),
        ("DELETE", "", "PurgeProject", {}),
    ],
)
def test_a_path_takes_the_route_of_its_rpc(method: str, path: str, rpc: str, values: dict[str, str]) -> None:
    route, found = ROUTES.find(method, f"{BASE}/{path}".rstrip("/"))
    assert (route.rpc.name, found) == (rpc, {"project_id": "p", **values})


@pytest.mark.parametrize("path", ["", "runs/", "runs/a/b", "runs/x:unknown", "runs/x:y:watch", "runs:cancel", "/runs"])
def test_what_is_no_route_is_not_found(path: str) -> None:
    with pytest.raises(Problem) as caught:
        ROUTES.find("GET", f"{BASE}/{path}")
    assert (caught.value.status, caught.value.reason) == (404, "ROUTE_UNKNOWN")


def test_another_method_is_told_which_there_are() -> None:
    with pytest.raises(Problem) as caught:
        ROUTES.find("DELETE", f"{BASE}/x/estimate")
    assert (caught.value.status, caught.value.headers) == (405, {"allow": "GET, POST"})


def test_segments_are_decoded_once_and_one_by_one() -> None:
    template = Template("/a/{one}/b/{two}:c")
    assert template.match("/a/x%2Fy%252F/b/%C3%A9%3Ac:c") == {"one": "x/y%2F", "two": "é:c"}
    assert template.expand({"one": "x/y", "two": "é:c"}) == "/a/x%2Fy/b/%C3%A9%3Ac:c"
    with pytest.raises(UnicodeDecodeError):
        template.match("/a/%FF/b/x:c")


def test_a_path_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        ROUTES.find("GET", f"{BASE}/runs/%FF")
    assert caught.value.status == 400


@pytest.mark.parametrize("text", ["no/slash", "/a/{b=**}", "/a/{b=c/*}", "/a/*", "/a/{B}", "/a/{b"])
def test_templates_that_are_not_understood_are_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="no path template"):
        Template(text)


def test_routes_at_the_root_are_those_without_api() -> None:
    at_root = Routes(RUNS, at_root=True)
    path = "/projects/p/automation-playbooks/runs"
    assert at_root.find("GET", path)[0].rpc.name == at_root.find("GET", f"/api{path}")[0].rpc.name == "ListRuns"
    with pytest.raises(Problem):
        ROUTES.find("GET", path)


def test_a_created_run_is_read_where_get_run_is() -> None:
    values = {"project_id": "a b", "run_id": "r", "playbook_id": "x"}
    location = ROUTES.location("run", values, "playbooks.runs.v1.Run")
    assert location == "/api/projects/a%20b/automation-playbooks/runs/r"
    assert ROUTES.location("draft", values, "playbooks.runs.v1.Draft") is None
