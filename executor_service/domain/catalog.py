"""Projects and their products."""

from dataclasses import dataclass
from typing import NamedTuple

from executor_service.playbooks.quota import Plan


@dataclass(frozen=True, slots=True)
class Project:
    """A project with its plan and AI limit."""

    id: str
    plan: Plan
    ai_daily_limit: int | None  # overrides the plan's


@dataclass(frozen=True, slots=True)
class Product:
    """A product; texts are empty rather than missing."""

    id: str
    external_id: str
    title: str
    description: str
    seo_title: str
    seo_description: str


class Scope(NamedTuple):
    """The set of products a playbook would work on."""

    id: str
    products: int
