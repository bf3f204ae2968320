"""Whether a playbook has anything to do in a project, asked for many runs at once."""

from collections import defaultdict
from collections.abc import Sequence

from executor_service.playbooks.playbook import Playbook
from executor_service.store.products import Products
from servicekit.background.batching import Batcher
from servicekit.postgres.database import Database

BATCH = 500  # runs


class AffectedLookup(Batcher[tuple[str, Playbook], bool | None]):
    """Answers (project id, playbook) with whether the project has affected products; None: there is no such project.

    The question is one step into an index however many products there are, so no run waits for another's.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(self._look, limit=BATCH)
        self._products = Products(database)

    async def _look(self, asked: Sequence[tuple[str, Playbook]]) -> list[bool | None]:
        projects: defaultdict[Playbook, set[str]] = defaultdict(set)
        for project_id, playbook in asked:
            projects[playbook].add(project_id)
        found: dict[tuple[str, Playbook], bool] = {}
        for playbook, project_ids in projects.items():
            have = await self._products.have_affected(list(project_ids), playbook)
            found |= {(project_id, playbook): has for project_id, has in have.items()}
        return [found.get(key) for key in asked]
