"""The page has a word for each state, type and playbook there is, and advice for each error code."""

import re
from pathlib import Path

import pytest
from playbooks.runs.v1.run_pb2 import Draft, Run, RunItem

from runs_service.predicates import PLAYBOOKS

ROOT = Path(__file__).parents[2]
WORDS = (ROOT / "gateway/page/words.js").read_text()
PROTO = (ROOT / "protos/playbooks/runs/v1/run.proto").read_text()


def keys(name: str) -> set[str]:
    """The names that an object of words.js has."""
    body = WORDS.split(f"export const {name} = {{", 1)[1].split("};", 1)[0]
    without_inner = re.sub(r"\{ name: .*? \}", "0", body)
    return set(re.findall(r'(\w+):\s+["0A-Z]', without_inner))


def error_codes() -> set[str]:
    (comment,) = re.findall(r"Set when FAILED or STALE: why\.(.*?)string error_code", PROTO, re.S)
    return set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", comment))


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("PLAYBOOKS", set(PLAYBOOKS)),
        ("TYPES", set(Run.Type.keys()[1:])),
        ("STATUSES", set(Run.Status.keys()[1:])),
        ("DRAFT_STATUSES", set(Draft.Status.keys()[1:])),
        ("ITEM_STATUSES", set(RunItem.Status.keys()[1:])),
        ("ADVICE", error_codes()),
        ("WARNINGS", {"trimmed_to_max_length", "forbidden_phrase_detected"}),
    ],
)
def test_the_page_has_words_for(name: str, needed: set[str]) -> None:
    assert needed
    assert keys(name) == needed
