"""`playbook-runs up` and `playbook-runs token`."""

import os
import signal
import sys
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import urlencode

import typer

from devstack.datadir import DataDir, Secrets, default_data_dir
from devstack.doctor import doctor
from devstack.errors import StackError
from servicekit.telemetry.printable import has_control_characters, printable, printable_lines

if TYPE_CHECKING:
    from devstack.stack import Stack

LONGEST_HOURS = 100 * 365 * 24  # a century; calendars end
FROM_ENVIRONMENT = "-"
PAGE_LIFETIME = timedelta(hours=12)  # of the token in the address of the page: a working day
LOCAL_USER = "local-user"

DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="D", help=f"Where data, secrets and logs are kept.  [default: {default_data_dir()}]"
    ),
]


class Auth(StrEnum):
    """Who may call a stack."""

    JWT = "jwt"
    DISABLED = "disabled"


class Role(StrEnum):
    """What a token allows."""

    SERVICE = "SERVICE"
    OWNER = "OWNER"
    EDITOR = "EDITOR"
    VIEWER = "VIEWER"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command()(up)
    app.command()(token)
    app.command()(doctor)


def up(
    *,
    data_dir: DataDirOption = None,
    runs_port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port of runs-service.")] = 50051,
    executor_port: Annotated[
        int, typer.Option(metavar="N", min=1, max=65535, help="Port of executor-service.")
    ] = 50052,
    http_port: Annotated[int, typer.Option(metavar="N", min=1, max=65535, help="Port of the HTTP gateway.")] = 8080,
    no_http: Annotated[bool, typer.Option("--no-http", help="No HTTP gateway: gRPC only.")] = False,
    no_broker: Annotated[
        bool, typer.Option("--no-broker", help="No Valkey: runs execute inline, one call each.")
    ] = False,
    auth: Annotated[
        Auth,
        typer.Option(help="jwt: callers need a token, see `playbook-runs token`. disabled: anybody on this machine."),
    ] = Auth.JWT,
    project: Annotated[
        str | None,
        typer.Option(metavar="P", help="The project that the printed address opens.  [default: any, the page asks]"),
    ] = None,
) -> None:
    """Run the whole stack on this machine: PostgreSQL, Valkey, both services, HTTP.

    Nothing has to be installed, and nothing listens beyond this machine.
    A line with `ready` is printed once both services answer; it says who
    writes suggestions. A process that dies is started again, unless it dies
    five times within a minute. Ctrl-C stops everything; the data is there
    again the next time, and so are the logs of the last five starts.

    At a terminal the next line is the address of the page. It has an OWNER
    token, valid for twelve hours: show it to nobody.

    Suggestions come from OpenAI when OPENAI_API_KEY is set, and else from
    a template writer that needs no key.

    Example: playbook-runs up --data-dir ./stack --runs-port 60051
    """
    from devstack.stack import Stack, StackOptions

    ports = {"--runs-port": runs_port, "--executor-port": executor_port}
    if not no_http:
        ports["--http-port"] = http_port
    for port in ports.values():
        if len(options := [option for option, chosen in ports.items() if chosen == port]) > 1:
            _fail(StackError(f"{' and '.join(options)} are both {port}; choose another port for one of them"))
    if project is not None:
        _check_name("--project", project)
    _exit_on_signals()
    stack = Stack(
        StackOptions(
            data_dir=data_dir or default_data_dir(),
            runs_port=runs_port,
            executor_port=executor_port,
            http=not no_http,
            http_port=http_port,
            broker=not no_broker,
            auth=auth.value,
        )
    )
    try:
        with stack:
            where = printable(str(stack.data_dir.path))
            http = f"HTTP at {stack.gateway.url}; " if stack.gateway else ""
            typer.echo(
                f"ready: runs-service at {stack.runs_target}, executor-service at {stack.executor_target}; {http}"
                f"data and logs in {where}; Ctrl-C stops it; suggestions by {printable(stack.writer)}"
            )
            if stack.gateway:
                typer.echo(f"page: {_page(stack, stack.gateway.url, project)}")
            stack.supervise(lambda line: typer.echo(printable(line), err=True))
    except StackError as error:
        _fail(error)


def token(
    *,
    project: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="The project's id; '*' for every project, whose plans its OWNER sets. Needed but for SERVICE.",
        ),
    ] = None,
    role: Annotated[
        Role,
        typer.Option(
            help="VIEWER reads; EDITOR also makes previews and drafts; OWNER also applies and writes the catalog; "
            "SERVICE is what the services call each other as."
        ),
    ],
    user: Annotated[str, typer.Option(metavar="U", help="The user's id, as runs will show it.")] = LOCAL_USER,
    hours: Annotated[
        float,
        typer.Option(
            metavar="H",
            help="How long it is valid; as long as the services accept: 720 (30 days), unless "
            "AUTH_JWT_MAX_LIFETIME_SECONDS says otherwise.",
        ),
    ] = 12.0,
    audience: Annotated[
        str, typer.Option(metavar="A", envvar="AUTH_JWT_AUDIENCE", help="Its `aud`, where the services demand one.")
    ] = "",
    issuer: Annotated[
        str, typer.Option(metavar="I", envvar="AUTH_JWT_ISSUER", help="Its `iss`, where the services demand one.")
    ] = "",
    data_dir: DataDirOption = None,
    secret: Annotated[
        str,
        typer.Option(
            metavar="S",
            help="Sign with this AUTH_JWT_SECRET (of several, the first) instead of the stack's. `-`: with the one in "
            "the environment, as in the containers of docker compose.",
        ),
    ] = "",
) -> None:
    """Print a token for the stack in a data folder.

    \b
    Example, with grpcurl:
      TOKEN=$(playbook-runs token --project shop-1 --role OWNER)
      grpcurl -plaintext -H "authorization: Bearer $TOKEN" \\
        -d '{"project_id": "shop-1"}' \\
        127.0.0.1:50051 playbooks.runs.v1.RunsService/ListRuns
    """
    for text in (secret, audience, issuer):
        text.encode()  # raises UnicodeEncodeError; JSON would write an escape that no setting equals
    if role is Role.SERVICE:
        if project not in (None, "*"):
            raise typer.BadParameter("a SERVICE is one for every project: leave it out", param_hint="'--project'")
        project = "*"
    elif project is None:
        raise typer.BadParameter(f"{role.value} is a role in a project: name it", param_hint="'--project'")
    for name, text in (("--project", project), ("--user", user)):
        _check_name(name, text)
    _check_lifetime(hours)
    try:
        secrets = _secrets_with(secret) if secret else DataDir(data_dir or default_data_dir()).secrets()
    except StackError as error:
        _fail(error)
    lifetime = timedelta(hours=hours)
    typer.echo(
        secrets.token({project: role.value}, user=user, lifetime=lifetime, audience=audience, issuer=issuer),
    )


def _page(stack: "Stack", url: str, project: str | None) -> str:
    """Return the page's address with a token in its fragment, which no browser sends; without one where a file or a log
    of others' would keep it."""
    place = f"{url}/{'?' + urlencode({'project': project}) if project else ''}"
    if stack.options.auth == "disabled":
        return place
    if not sys.stdout.isatty():
        return f"{place} (it asks for a token: `playbook-runs token`)"
    token = stack.secrets.token({project or "*": Role.OWNER.value}, user=LOCAL_USER, lifetime=PAGE_LIFETIME)
    return f"{place}#token={token}"


def _check_name(option: str, name: str) -> None:
    """Refuse what can be no id."""
    name.encode()  # raises UnicodeEncodeError
    if not name.strip():
        raise typer.BadParameter("it is empty", param_hint=f"'{option}'")
    if has_control_characters(name):
        _fail(StackError(f"{option} has a control character, which no id may have: {printable(name)}"))


def _check_lifetime(hours: float) -> None:
    """Refuse a lifetime that the services would refuse in the token."""
    from servicekit.auth.tokens import MAX_LIFETIME

    configured = os.environ.get("AUTH_JWT_MAX_LIFETIME_SECONDS", "")
    seconds = float(configured) if configured.isdecimal() else MAX_LIFETIME.total_seconds()
    longest = min(seconds / 3600, LONGEST_HOURS)
    if not 0 <= hours <= longest:
        raise typer.BadParameter(
            f"{hours:g} is not between 0 and {longest:g}: the services refuse tokens that are "
            "valid for longer, as none can be taken back (AUTH_JWT_MAX_LIFETIME_SECONDS)",
            param_hint="'--hours'",
        )


def _secrets_with(secret: str) -> Secrets:
    """Return secrets that sign as services do that have `secret` as AUTH_JWT_SECRET. Raises StackError."""
    from servicekit.auth.keys import secrets_in

    if secret == FROM_ENVIRONMENT:
        secret = os.environ.get("AUTH_JWT_SECRET", "")
        if not secret:
            raise StackError("--secret - takes AUTH_JWT_SECRET from the environment, and it is not set")
    try:
        return Secrets(jwt_secret=secrets_in(secret)[0])
    except ValueError as error:
        raise StackError(f"--secret: {error}") from error


def _exit_on_signals() -> None:
    """Make SIGINT, SIGTERM and SIGHUP end the process in order, with exit code 0; only the first one counts."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def exit_once(_number: int, _frame: FrameType | None) -> NoReturn:
        for name in names:
            signal.signal(name, signal.SIG_IGN)
        raise SystemExit(0)

    for name in names:
        signal.signal(name, exit_once)


def _fail(error: StackError) -> NoReturn:
    typer.echo(f"error: {printable_lines(str(error))}", err=True)
    raise typer.Exit(1)
