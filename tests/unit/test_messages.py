from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run, RunMeta
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from runs_service import messages
from tests.support.runs import NOW, new_run, request

FindReplace = PlaybookRules.FindReplace
CALL = "0199d5c2-7c55-4bd4-b9c1-5f1c4a1f6f0e"


def same(one: CreateRunRequest, other: CreateRunRequest) -> bool:
    return messages.canonical(one).SerializeToString(deterministic=True) == messages.canonical(other).SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(
    "meta",
    [
        RunMeta(),
        RunMeta(sample_size=3),
        RunMeta(rules=PlaybookRules()),
        RunMeta(rules=PlaybookRules(mode="enforce")),
        RunMeta(rules=PlaybookRules(find_replace=FindReplace(replace="x", case_sensitive=True))),
    ],
    ids=str,
)
def test_defaults_written_out_mean_the_same_as_left_out(meta: RunMeta) -> None:
    assert same(request(), request(meta=meta))


@pytest.mark.parametrize(
    "fields",
    [
        {"project_id": "q"},
        {"playbook_id": "missing_seo_description"},
        {"run_type": Run.DRAFT_GENERATE},
        {"scope_id": "s"},
        {"rules_hash": "h"},
        {"meta": RunMeta(sample_size=4)},
        {"meta": RunMeta(economy=True)},
        {"meta": RunMeta(economy=True, deadline_seconds=600)},
        {"meta": RunMeta(rules=PlaybookRules(enabled=True))},
        {"meta": RunMeta(rules=PlaybookRules(prefix="x"))},
        {"meta": RunMeta(rules=PlaybookRules(suffix="x"))},
        {"meta": RunMeta(rules=PlaybookRules(max_length=9))},
        {"meta": RunMeta(rules=PlaybookRules(forbidden_phrases=["x"]))},
        {"meta": RunMeta(rules=PlaybookRules(mode="warn"))},
        {"meta": RunMeta(rules=PlaybookRules(find_replace=FindReplace(find="a")))},
    ],
    ids=str,
)
def test_every_field_that_says_something_counts(fields: dict[str, object]) -> None:
    assert not same(request(), request(**fields))
    assert new_run(**fields).fingerprint != new_run().fingerprint


def test_the_order_of_forbidden_phrases_counts() -> None:
    one, other = (request(meta=RunMeta(rules=PlaybookRules(forbidden_phrases=p))) for p in (["a", "b"], ["b", "a"]))
    assert not same(one, other)


def test_the_key_is_no_part_of_the_meaning() -> None:
    assert new_run(idempotency_key="k").fingerprint == new_run(idempotency_key="l").fingerprint == new_run().fingerprint


def test_a_request_id_is_no_part_of_the_meaning_and_names_the_call() -> None:
    named, plain = new_run(request_id=CALL), new_run()
    assert (named.fingerprint, named.dedup_key, named.run.idempotency_key) == (
        plain.fingerprint,
        plain.dedup_key,
        plain.run.idempotency_key,
    )
    assert plain.call is None
    assert named.call
    assert named.call.name == f"request:{CALL}"
    assert new_run(request_id=CALL.upper()).call == named.call


@pytest.mark.parametrize("fields", [{"idempotency_key": "k"}, {"scope_id": "s"}, {"meta": RunMeta(sample_size=4)}])
def test_a_call_with_other_values_or_another_key_says_something_else(fields: dict[str, object]) -> None:
    one, other = new_run(request_id=CALL).call, new_run(request_id=CALL, **fields).call
    assert one
    assert other
    assert one.name == other.name
    assert one.meaning != other.meaning


def test_the_retries_of_a_run_are_one_call_whatever_their_keys() -> None:
    original = new_run(request_id=CALL)
    calls = {
        messages.retry(original, key=key, run_id=f"{n}", user_id="u", request_id="r", now=NOW).call
        for n, key in enumerate(("a", "b", None))
    }
    (call,) = calls
    assert call
    assert call.name == f"retry:{original.run.id}"
    assert not call.echoes_created


def test_the_order_of_fields_on_the_wire_does_not_count() -> None:
    parts = [request(project_id="p", scope_id="s"), CreateRunRequest(meta=RunMeta(sample_size=5))]
    forwards, backwards = (
        CreateRunRequest.FromString(b"".join(part.SerializeToString() for part in order))
        for order in (parts, parts[::-1])
    )
    assert same(forwards, backwards)


@given(st.integers(1, 50), st.text(max_size=5), st.booleans())
def test_a_request_read_back_from_the_wire_has_the_same_fingerprint(size: int, prefix: str, enabled: bool) -> None:
    meta = RunMeta(sample_size=size, rules=PlaybookRules(prefix=prefix, enabled=enabled))
    one = request(meta=meta)
    assert same(one, CreateRunRequest.FromString(one.SerializeToString()))


def test_a_given_and_a_derived_key_never_meet() -> None:
    derived = new_run()
    given_key = new_run(idempotency_key=derived.run.idempotency_key)
    assert given_key.run.idempotency_key == derived.run.idempotency_key
    assert given_key.dedup_key != derived.dedup_key
    assert (given_key.has_own_key, derived.has_own_key) == (True, False)


@pytest.mark.parametrize(
    ("fields", "frees"),
    [({}, True), ({"scope_id": "s"}, False), ({"idempotency_key": "k"}, False)],
    ids=["derived without a scope", "derived with a scope", "given"],
)
def test_only_a_derived_key_without_scope_makes_way_after_success(fields: dict[str, str], frees: bool) -> None:
    assert new_run(**fields).frees_on_success is frees


def test_a_new_run_shows_what_was_asked_for_with_the_defaults() -> None:
    wanted = messages.new_run(
        request(idempotency_key="k"), run_id=str(UUID(int=7)), user_id="user", request_id="req", now=NOW
    )
    run = wanted.run
    assert (run.status, run.sequence, run.attempt, run.created_by_user_id) == (Run.QUEUED, 1, 0, "user")
    assert run.meta.sample_size == 3
    assert run.idempotency_key == "k"
    assert run.created_at.ToDatetime() == NOW.replace(tzinfo=None)


def test_a_job_carries_the_whole_run() -> None:
    run = new_run(scope_id="s", rules_hash="h", meta=RunMeta(sample_size=9)).run
    job = messages.job(run, "req")
    shared = ("project_id", "playbook_id", "run_type", "scope_id", "rules_hash", "meta", "created_by_user_id")
    assert all(getattr(job, name) == getattr(run, name) for name in (*shared, "created_at"))
    assert (job.run_id, job.request_id) == (run.id, "req")


ECONOMY = RunMeta(economy=True)
DRAFT = {"run_type": Run.DRAFT_GENERATE, "scope_id": "s", "rules_hash": "h"}
APPLY = {"run_type": Run.APPLY, "scope_id": "s", "rules_hash": "h"}


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({}, "1c5b487919e02376781d0752a8cab243ae96f6fbaef21e179b25fdb7f376a6e1"),
        (DRAFT, "bd1ee6554861e1319c5993c1747667bb27dca5c8407e3f08e68637a11a1b3299"),
        (APPLY, "d19cf96bbb3c0bb658b42bac5e76f3843552957f02c401e90a146f7ad8cc413d"),
        (
            {"meta": RunMeta(sample_size=5, deadline_seconds=60, rules=PlaybookRules(enabled=True, prefix="x"))},
            "6708a00a59c424c439b980fbb367ed46dffcab51e9ebd566843b356a1d1e5e6a",
        ),
    ],
    ids=["preview", "draft", "apply", "with options"],
)
def test_a_derived_key_is_the_one_of_earlier_releases(fields: dict[str, object], key: str) -> None:
    assert new_run(**fields).run.idempotency_key == key


def test_economy_leaves_time_to_wait_for_it() -> None:
    assert new_run(meta=ECONOMY).run.meta.deadline_seconds == 21_600
    assert new_run(meta=RunMeta(economy=True, deadline_seconds=60)).run.meta.deadline_seconds == 60
    assert new_run().run.meta.deadline_seconds == new_run(**APPLY, meta=ECONOMY).run.meta.deadline_seconds == 600


def test_an_apply_has_no_economy() -> None:
    assert new_run(**APPLY, meta=ECONOMY).fingerprint == new_run(**APPLY).fingerprint
    assert new_run(**DRAFT, meta=ECONOMY).fingerprint != new_run(**DRAFT).fingerprint


def test_a_retry_keeps_the_economy_of_its_run() -> None:
    original = new_run(meta=ECONOMY)
    again = messages.retry(original, key=None, run_id="r2", user_id="u", request_id="r", now=NOW)
    assert again.run.meta.economy
    assert messages.job(again.run, "r").meta.economy
