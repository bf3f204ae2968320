"""The rules of requests that their protos do not say."""

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from servicekit.errors import Violation
from servicekit.rpc.interceptors.validation import RequestRules


def _scope(request: CreateRunRequest) -> list[Violation]:
    """Return what a draft or an apply lacks. As rules in CEL these two cost 6 % of P1 (docs/performance.md)."""
    if request.run_type not in (Run.DRAFT_GENERATE, Run.APPLY):
        return []
    return [
        Violation(
            name,
            f"{name} is required for DRAFT_GENERATE and APPLY: take it from a preview or EstimatePlaybook",
        )
        for name in ("scope_id", "rules_hash")
        if not getattr(request, name)
    ]


RULES: RequestRules = {"/playbooks.runs.v1.RunsService/CreateRun": _scope}
