import pytest

from servicekit.auth.principals import NoAuthentication, Principal, Role
from servicekit.errors import Reason, ServiceError


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEWER, {Role.VIEWER}),
        (Role.EDITOR, {Role.VIEWER, Role.EDITOR}),
        (Role.OWNER, {Role.VIEWER, Role.EDITOR, Role.OWNER}),
        (Role.SERVICE, {Role.VIEWER, Role.SERVICE}),
    ],
)
def test_the_ladder_of_roles(role: Role, may: set[Role]) -> None:
    for needed in Role:
        if needed in may:
            Principal("u", {"p": role}).require(needed, "p")
        else:
            with pytest.raises(ServiceError) as failure:
                Principal("u", {"p": role}).require(needed, "p")
            assert failure.value.reason is Reason.ROLE_TOO_LOW


def test_a_project_the_token_does_not_name_is_closed() -> None:
    for project in ("q", "", "*", "P"):
        with pytest.raises(ServiceError) as failure:
            Principal("u", {"p": Role.OWNER}).require(Role.VIEWER, project)
        assert failure.value.reason is Reason.PROJECT_ACCESS_DENIED


@pytest.mark.parametrize("roles", [{"p": Role.OWNER}, {"*": Role.OWNER}, {}])
def test_a_refused_user_reads_that_the_method_is_for_services(roles: dict[str, Role]) -> None:
    with pytest.raises(ServiceError, match="for the services themselves") as failure:
        Principal("u", roles).require(Role.SERVICE, "*")
    assert failure.value.reason is Reason.ROLE_TOO_LOW


def test_a_role_in_one_project_wins_over_the_role_in_all() -> None:
    principal = Principal("u", {"*": Role.OWNER, "p": Role.VIEWER})
    principal.require(Role.OWNER, "q")
    with pytest.raises(ServiceError):
        principal.require(Role.OWNER, "p")


def test_without_authentication_everybody_may_everything() -> None:
    for role in Role:
        NoAuthentication().authenticate(None).require(role, "p")
