"""Between requests, runs and jobs: everything that builds one message out of another."""

import hashlib
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp
from playbooks.executor.v1.job_pb2 import RunJob
from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from servicekit.telemetry.trace_context import TraceContext

DEFAULT_SAMPLE_SIZE = 3  # products of a preview
DEFAULT_DEADLINE = 600  # seconds from a run's creation
ECONOMY_DEADLINE = 21_600  # the same for a run that waits until the provider has room for it
DEFAULT_MODE = "enforce"
JOB_BYTES = 8_000  # of a job that counts as one; rules can make it ten times as large


class Call(NamedTuple):
    """A call that may arrive more than once and leads to one run, even after that run has ended."""

    name: str  # unique in its project
    meaning: bytes  # equal when the same is said again
    # Whether a repeat gets the first answer's `created`; else it gets false.
    echoes_created: bool

    @classmethod
    def create(cls, request_id: str, *, fingerprint: bytes, dedup_key: str) -> "Call":
        """Return the call that its caller named: its key is part of what it says."""
        meaning = hashlib.sha256(fingerprint + dedup_key.encode()).digest()
        return cls(f"request:{request_id.lower()}", meaning, echoes_created=True)

    @classmethod
    def retry(cls, original: "NewRun") -> "Call":
        """Return the call for the one retry of a run: the same under every key."""
        return cls(cls.retry_name(original.run.id), original.fingerprint, echoes_created=False)

    @staticmethod
    def retry_name(run_id: str) -> str:
        """Return what the call for the retry of a run is known by."""
        return f"retry:{run_id}"


class NewRun(NamedTuple):
    """A run that is asked for, before the database has decided whether it is new."""

    run: Run
    request_id: str  # of the logs, `x-request-id`; the request's own `request_id` names a Call
    # The request's meaning: equal for requests that ask for the same.
    fingerprint: bytes
    # What is unique among a project's runs. Given and derived keys never meet.
    dedup_key: str
    # Whether a SUCCEEDED run makes way for a new one under the same key.
    frees_on_success: bool
    created_at: datetime
    # What a repeat of the call is known by; None: by its key alone.
    call: Call | None = None
    traceparent: str = ""  # of the call that asks for it

    @property
    def has_own_key(self) -> bool:
        """Whether the caller chose the key, and so can reuse it by mistake."""
        return self.dedup_key.startswith("key:")

    @property
    def deadline(self) -> datetime:
        """When the run must have ended."""
        return self.created_at + timedelta(seconds=self.run.meta.deadline_seconds)


def new_run(
    request: CreateRunRequest, *, run_id: str, user_id: str, request_id: str, now: datetime, traceparent: str = ""
) -> NewRun:
    """Return the QUEUED run that `request` asks for."""
    meaning = canonical(request)
    fingerprint = hashlib.sha256(meaning.SerializeToString(deterministic=True)).digest()
    own_key = request.HasField("idempotency_key")
    dedup_key = f"key:{request.idempotency_key}" if own_key else f"derived:{fingerprint.hex()}"
    call = None
    if request.HasField("request_id"):
        call = Call.create(request.request_id, fingerprint=fingerprint, dedup_key=dedup_key)
    run = Run(
        id=run_id,
        project_id=request.project_id,
        playbook_id=request.playbook_id,
        run_type=request.run_type,
        status=Run.QUEUED,
        scope_id=request.scope_id,
        rules_hash=request.rules_hash,
        idempotency_key=request.idempotency_key if own_key else fingerprint.hex(),
        meta=request.meta,
        created_by_user_id=user_id,
        sequence=1,
        created_at=_timestamp(now),
        updated_at=_timestamp(now),
        trace_id=_recorded_trace(traceparent),
    )
    if request.run_type == Run.PREVIEW_GENERATE and not run.meta.HasField("sample_size"):
        run.meta.sample_size = DEFAULT_SAMPLE_SIZE
    run.meta.deadline_seconds = meaning.meta.deadline_seconds
    return NewRun(
        run=run,
        request_id=request_id,
        fingerprint=fingerprint,
        dedup_key=dedup_key,
        frees_on_success=not own_key and not request.scope_id,
        created_at=now,
        call=call,
        traceparent=traceparent,
    )


def retry(
    original: NewRun,
    *,
    key: str | None,
    run_id: str,
    user_id: str,
    request_id: str,
    now: datetime,
    traceparent: str = "",
) -> NewRun:
    """Return a QUEUED run that asks for the same as `original` did when it was created, under its key or `key`."""
    run = Run()
    run.CopyFrom(original.run)
    run.id = run_id
    run.retry_of = original.run.id
    run.created_by_user_id = user_id
    run.trace_id = _recorded_trace(traceparent)
    run.idempotency_key = key or run.idempotency_key
    run.created_at.CopyFrom(_timestamp(now))
    run.updated_at.CopyFrom(run.created_at)
    return NewRun(
        run=run,
        request_id=request_id,
        fingerprint=original.fingerprint,
        dedup_key=f"key:{key}" if key else original.dedup_key,
        frees_on_success=original.frees_on_success and not key,
        created_at=now,
        call=Call.retry(original),
        traceparent=traceparent,
    )


def _recorded_trace(traceparent: str) -> str:
    """Return the id of a trace that is recorded, or ""."""
    context = TraceContext.parse(traceparent)
    return context.trace_id if context and context.is_sampled else ""


@lru_cache(maxsize=1)
def _timestamp(time: datetime) -> Timestamp:
    """Return a time as protobuf has it. The runs of a batch share theirs, and to convert it takes 2 microseconds."""
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def canonical(request: CreateRunRequest) -> CreateRunRequest:
    """Return the request without its names and with every default written out: equal meaning, equal bytes."""
    plain = CreateRunRequest()
    plain.CopyFrom(request)
    plain.ClearField("idempotency_key")
    plain.ClearField("request_id")
    economy = request.meta.economy and request.run_type != Run.APPLY
    default = ECONOMY_DEADLINE if economy else DEFAULT_DEADLINE
    plain.ClearField("meta")
    meta = plain.meta
    meta.deadline_seconds = request.meta.deadline_seconds or default
    meta.economy = economy
    is_preview = request.run_type == Run.PREVIEW_GENERATE
    if is_preview:
        meta.sample_size = request.meta.sample_size or DEFAULT_SAMPLE_SIZE
    # A preview without rules means no rules; a draft without rules means those of the preview.
    if is_preview or request.meta.HasField("rules"):
        meta.rules.CopyFrom(request.meta.rules)
        meta.rules.mode = meta.rules.mode or DEFAULT_MODE
        if not meta.rules.find_replace.find:
            meta.rules.ClearField("find_replace")
    return plain


def weight(run: Run) -> int:
    """Return how many jobs the job of `run` counts as where many go out together: messages have a largest size."""
    return 1 + run.ByteSize() // JOB_BYTES


def log_fields(run: Run) -> dict[str, str]:
    """Return what a log line about `run` names beside its message, where no call or task has bound it."""
    fields = {"run_id": run.id, "project_id": run.project_id}
    return {**fields, "trace_id": run.trace_id} if run.trace_id else fields


def job(run: Run, request_id: str, traceparent: str = "") -> RunJob:
    """Return what the executor needs to execute `run`."""
    job = RunJob(
        run_id=run.id,
        project_id=run.project_id,
        playbook_id=run.playbook_id,
        run_type=run.run_type,
        scope_id=run.scope_id,
        rules_hash=run.rules_hash,
        meta=run.meta,
        created_by_user_id=run.created_by_user_id,
        request_id=request_id,
        traceparent=traceparent,
        created_at=run.created_at,
    )
    job.deadline.CopyFrom(run.created_at)
    job.deadline.seconds += run.meta.deadline_seconds
    return job
