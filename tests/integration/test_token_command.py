"""`playbook-runs token`: tokens that the services accept, and what it refuses to sign."""

import time
from pathlib import Path

import jwt
import pytest
import typer
from typer.testing import CliRunner, Result

from devstack import commands
from devstack.datadir import DataDir
from servicekit.auth.principals import Role as ServiceRole
from servicekit.auth.tokens import Demands, TokenAuthenticator


class TestTokenCommand:
    def test_prints_a_token_that_the_stack_accepts(self, tmp_path: Path) -> None:
        data = DataDir(tmp_path)
        data.occupy().release()
        secret = data.make_secrets().jwt_secret
        arguments = ["--project", "shop-1", "--role", "EDITOR", "--user", "ada", "--data-dir", str(tmp_path)]
        result = self.run(*arguments)
        assert result.exit_code == 0
        claims = jwt.decode(result.stdout.strip(), secret, algorithms=["HS256"])
        assert (claims["sub"], claims["projects"]) == ("ada", {"shop-1": "EDITOR"})
        assert abs(claims["exp"] - time.time() - 12 * 3600) < 60

    def test_signs_for_services_with_other_secrets_and_demands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        secrets = ("the first one signs: 32 or more of it", "the second one verifies: 32 or more")
        arguments = ["--project", "p", "--role", "OWNER", "--audience", "playbooks", "--issuer", "us", "--hours", "720"]
        monkeypatch.setenv("AUTH_JWT_SECRET", ",".join(secrets))
        for secret in (",".join(secrets), "-"):
            result = self.run(*arguments, "--secret", secret)
            demands = Demands("playbooks", "us")
            authenticator = TokenAuthenticator([secrets[0]], demands=demands)
            assert authenticator.authenticate(f"Bearer {result.stdout.strip()}").user_id == "local-user"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--hours", "721"], "between 0 and 720"),
            (["--hours", "nan"], "between 0 and 720"),
            (["--hours", "-1"], "between 0 and 720"),
            (["--secret", "-"], "AUTH_JWT_SECRET"),
            (["--secret", "x" * 32 + ",hidden"], "secret 2 of 2 is too short"),
        ],
        ids=str,
    )
    def test_refuses_what_the_services_would(
        self, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AUTH_JWT_SECRET", raising=False)
        result = self.run("--project", "p", "--role", "OWNER", "--secret", "x" * 32, *arguments)
        assert result.exit_code in (1, 2)
        assert message in " ".join(result.stderr.split())
        assert "hidden" not in result.stderr
        assert result.stdout == ""

    def test_may_make_tokens_as_long_as_the_services_accept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AUTH_JWT_MAX_LIFETIME_SECONDS", str(3_600))
        arguments = ["--project", "p", "--role", "OWNER", "--secret", "x" * 32, "--hours"]
        assert self.run(*arguments, "1").exit_code == 0
        assert self.run(*arguments, "1.1").exit_code == 2

    def test_a_service_token_opens_what_only_services_may_call(self) -> None:
        secret = "0123456789abcdef0123456789abcdef"
        for project in ([], ["--project", "*"]):
            result = self.run("--role", "SERVICE", "--secret", secret, *project)
            assert result.exit_code == 0
            principal = TokenAuthenticator([secret]).authenticate(f"Bearer {result.stdout.strip()}")
            principal.require(ServiceRole.SERVICE, "*")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--role", "SERVICE", "--project", "shop"], "a SERVICE is one for every project"),
            (["--role", "OWNER"], "OWNER is a role in a project"),
            (["--role", "OWNER", "--project", ""], "'--project': it is empty"),
            (["--role", "OWNER", "--project", " "], "'--project': it is empty"),
            (["--role", "OWNER", "--project", "p", "--user", ""], "'--user': it is empty"),
        ],
        ids=str,
    )
    def test_a_role_needs_its_project_and_a_name_is_not_empty(self, arguments: list[str], message: str) -> None:
        result = self.run("--secret", "x" * 32, *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in " ".join(result.stderr.split())

    def test_says_what_to_do_where_no_stack_ever_was(self, tmp_path: Path) -> None:
        result = self.run("--project", "p", "--role", "OWNER", "--data-dir", str(tmp_path / "nothing"))
        assert result.exit_code == 1
        assert "playbook-runs up" in result.stderr
        assert not (tmp_path / "nothing").exists()

    @staticmethod
    def run(*arguments: str) -> Result:
        app = typer.Typer()
        commands.register(app)
        return CliRunner().invoke(app, ["token", *arguments])
