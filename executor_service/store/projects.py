"""Projects.

A transaction that writes products locks its project's row in share mode; one that ends a run locks it alone. So what a
run has checked about the scope is still true when it commits, and catalog writers never wait for each other.
"""

from typing import Any

from executor_service.domain.catalog import Project
from executor_service.playbooks.quota import Plan
from servicekit.postgres.database import Querier, Row

_SELECT = "SELECT id, plan, ai_daily_limit FROM executor.projects WHERE id = %(id)s"


class Projects:
    """Reads, writes and locks projects. Takes where statements run: the database, or a connection in a transaction."""

    def __init__(self, querier: Querier) -> None:
        self._querier = querier

    _ADD = """
    INSERT INTO executor.projects (id, plan, ai_daily_limit) VALUES (%(id)s, %(plan)s, %(ai_daily_limit)s)
    ON CONFLICT (id) DO NOTHING"""

    async def ensure(self, new: Project) -> Project:
        """Return the project of that id, `new` if there was none, and keep others from changing it until the end of
        this transaction."""
        await self._querier.execute(self._ADD, _columns(new))
        return _project(await self._querier.fetch_one(self._LOCK, {"id": new.id}))

    _UPDATE = """
    UPDATE executor.projects SET plan = %(plan)s, ai_daily_limit = %(ai_daily_limit)s, updated_at = now()
    WHERE id = %(id)s"""

    async def update(self, project: Project) -> None:
        """Set the plan and the limit of a project."""
        await self._querier.execute(self._UPDATE, _columns(project))

    async def find(self, project_id: str) -> Project | None:
        """Return the project, or None."""
        row = await self._querier.fetch_optional(_SELECT, {"id": project_id})
        return None if row is None else _project(row)

    _SHARE = f"{_SELECT} FOR SHARE"

    async def share(self, project_id: str) -> bool:
        """Keep runs from ending until this transaction has written its products; return whether the project exists."""
        return await self._querier.fetch_optional(self._SHARE, {"id": project_id}) is not None

    _LOCK = f"{_SELECT} FOR NO KEY UPDATE"

    async def lock(self, project_id: str) -> None:
        """Keep others from writing the project's products until this transaction ends."""
        await self._querier.execute(self._LOCK, {"id": project_id})

    _LOCK_ALONE = f"{_SELECT} FOR UPDATE"

    async def lock_alone(self, project_id: str) -> None:
        """Keep others from writing the project and its products until this transaction ends: it is to be deleted."""
        await self._querier.execute(self._LOCK_ALONE, {"id": project_id})


def _columns(project: Project) -> dict[str, Any]:
    return {"id": project.id, "plan": project.plan.value, "ai_daily_limit": project.ai_daily_limit}


def _project(row: Row) -> Project:
    return Project(row.id, Plan(row.plan), row.ai_daily_limit)
