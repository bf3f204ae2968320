"""What the protos and the stubs say to other languages is what the code does."""

import re
import tomllib
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from servicekit.errors import STATUS_CODES

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "protos/playbooks/runs/v1"
RUN_ERROR = re.compile(r'"((?:PLAYBOOK|AI|RUN|PLAN|MAX)_[A-Z_]+)"')


def documented(text: str, row: str) -> dict[str, str]:
    """Return the codes in a table of comments, each with the name its row begins with."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(row, line):
            name = match[1] or name
            found |= dict.fromkeys(re.findall(r"[A-Z_]{5,}", match[2]), name)
    return found


def test_every_reason_stands_in_the_protos_with_its_status_code() -> None:
    text = (RUNS / "runs_service.proto").read_text()
    assert documented(text, r"//   ([A-Z_]+) +([A-Z_, ]+)$") == {
        str(reason): code.name for reason, code in STATUS_CODES.items()
    }


def test_every_run_error_code_stands_in_the_protos() -> None:
    text = (RUNS / "run.proto").read_text().partition("FAILED or STALE: why.")[2].partition("string error_code")[0]
    table = documented(text, r"  //   (STALE|FAILED|      ) +([A-Z_, ]+)$")
    sources = [file for service in ("runs_service", "executor_service") for file in (ROOT / service).rglob("*.py")]
    used = {code for file in sources for code in RUN_ERROR.findall(file.read_text())}
    assert set(table) == used | {"PROJECT_NOT_FOUND", "INTERNAL_ERROR"}


def test_the_descriptor_set_has_every_proto_with_its_imports_and_comments() -> None:
    files = FileDescriptorSet.FromString((ROOT / "gen/playbook-runs.binpb").read_bytes()).file
    names = {file.name for file in files}
    assert {str(proto.relative_to(ROOT / "protos")) for proto in (ROOT / "protos").rglob("*.proto")} <= names
    assert {needed for file in files for needed in file.dependency} <= names
    assert {"google/rpc/status.proto", "google/rpc/error_details.proto"} <= names  # what errors carry
    (runs,) = [file for file in files if file.name == "playbooks/runs/v1/runs_service.proto"]
    assert any("Accepts a run" in location.leading_comments for location in runs.source_code_info.location)


def test_the_stubs_take_no_newer_grpcio_than_the_services() -> None:
    def grpcio(file: str) -> list[str]:
        dependencies = tomllib.loads((ROOT / file).read_text())["project"]["dependencies"]
        return [one.replace(" ", "") for one in dependencies if re.match(r"grpcio[^-a-z]", one)]

    assert grpcio("gen/pyproject.toml") == grpcio("client/pyproject.toml") == grpcio("pyproject.toml") != []
