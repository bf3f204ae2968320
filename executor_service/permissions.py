"""Who may call what."""

from playbooks.executor.v1.catalog_service_pb2 import PutProjectRequest

from servicekit.auth.principals import Role, current_principal
from servicekit.rpc.interceptors.authorization import Permissions

_EXECUTOR = "/playbooks.executor.v1.ExecutorService"
_CATALOG = "/playbooks.executor.v1.CatalogService"


def _of_put_project(_request: PutProjectRequest) -> Role:
    """Return OWNER for people. A service is no owner, and yet sets plans and limits."""
    is_service = current_principal().roles.get("*") is Role.SERVICE
    return Role.SERVICE if is_service else Role.OWNER


PERMISSIONS: Permissions = {
    f"{_EXECUTOR}/ExecuteRun": Role.SERVICE,
    f"{_EXECUTOR}/ReconcileRuns": Role.SERVICE,
    f"{_EXECUTOR}/CancelRuns": Role.SERVICE,
    f"{_EXECUTOR}/DeleteProject": Role.SERVICE,
    f"{_EXECUTOR}/EstimatePlaybook": Role.VIEWER,
    f"{_EXECUTOR}/GetDraft": Role.VIEWER,
    f"{_EXECUTOR}/GetLatestDraft": Role.VIEWER,
    f"{_EXECUTOR}/ListRunItems": Role.VIEWER,
    f"{_CATALOG}/PutProject": _of_put_project,
    f"{_CATALOG}/GetProject": Role.VIEWER,
    f"{_CATALOG}/PutProducts": Role.OWNER,
    f"{_CATALOG}/ListProducts": Role.VIEWER,
    f"{_CATALOG}/DeleteProducts": Role.OWNER,
}
