"""Which role each call needs."""

from playbooks.runs.v1.run_pb2 import Run
from playbooks.runs.v1.runs_service_pb2 import CreateRunRequest

from servicekit.auth.principals import Role
from servicekit.rpc.interceptors.authorization import Permissions


def role_for(run_type: int) -> Role:
    """Return the role that may create, cancel or retry a run: OWNER for what writes the catalog."""
    return Role.OWNER if run_type == Run.APPLY else Role.EDITOR


def _create(request: CreateRunRequest) -> Role:
    return role_for(request.run_type)


_SERVICE = "/playbooks.runs.v1.RunsService"

PERMISSIONS: Permissions = {
    f"{_SERVICE}/CreateRun": _create,
    f"{_SERVICE}/GetRun": Role.VIEWER,
    f"{_SERVICE}/ListRuns": Role.VIEWER,
    f"{_SERVICE}/GetUsage": Role.VIEWER,
    f"{_SERVICE}/WatchRun": Role.VIEWER,
    f"{_SERVICE}/WatchRuns": Role.VIEWER,
    # EDITOR, or OWNER when the run is an APPLY: the servicer checks that once it has read the run.
    f"{_SERVICE}/CancelRun": Role.EDITOR,
    f"{_SERVICE}/RetryRun": Role.EDITOR,
    f"{_SERVICE}/PreviewPlaybook": Role.EDITOR,
    f"{_SERVICE}/ApplyPlaybook": Role.OWNER,
    f"{_SERVICE}/PurgeProject": Role.OWNER,
}
