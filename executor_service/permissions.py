"""Who may call what."""

from servicekit.auth import Role
from servicekit.interceptors.authorization import Permissions

_EXECUTOR = "/playbooks.executor.v1.ExecutorService"
_CATALOG = "/playbooks.executor.v1.CatalogService"

PERMISSIONS: Permissions = {
    f"{_EXECUTOR}/ExecuteRun": Role.SERVICE,
    f"{_EXECUTOR}/ReconcileRuns": Role.SERVICE,
    f"{_EXECUTOR}/CancelRuns": Role.SERVICE,
    f"{_EXECUTOR}/EstimatePlaybook": Role.VIEWER,
    f"{_EXECUTOR}/GetDraft": Role.VIEWER,
    f"{_EXECUTOR}/GetLatestDraft": Role.VIEWER,
    f"{_EXECUTOR}/ListRunItems": Role.VIEWER,
    f"{_CATALOG}/PutProject": Role.OWNER,
    f"{_CATALOG}/GetProject": Role.VIEWER,
    f"{_CATALOG}/PutProducts": Role.OWNER,
    f"{_CATALOG}/ListProducts": Role.VIEWER,
    f"{_CATALOG}/DeleteProducts": Role.OWNER,
}
