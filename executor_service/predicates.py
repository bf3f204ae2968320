"""The predicates of the schema `executor` that statements and the tables of models.py share.

Not in models.py: SQLAlchemy, which only a migration needs, would take a quarter of the service's start.
"""

from executor_service.playbooks.playbook import PLAYBOOKS
from servicekit.blanks import BLANKS


def shows_nothing(field: str) -> str:
    """Return the condition that a text shows nothing, like playbooks.playbook.is_blank.

    btrim() alone takes three times as long, and each written product is checked twice: nothing that begins with a
    visible ASCII character is blank.
    """
    return f"({field} COLLATE \"C\" < '!' OR {field} COLLATE \"C\" > '~') AND btrim({field}, '{BLANKS}') = ''"


# The predicates of the partial indexes; queries repeat them word for word, or the indexes are not used.
BLANK = {playbook.field: shows_nothing(playbook.field) for playbook in PLAYBOOKS}
UNPUBLISHED = "published_number < event_number"
