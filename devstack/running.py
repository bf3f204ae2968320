"""A stack that runs in a folder, as its services and gateway see it."""

from urllib.parse import urlsplit

from devstack.datadir import DataDir
from devstack.errors import StackError
from devstack.postgres import Postgres
from devstack.provision import DATABASE
from devstack.valkey import Valkey


def environment_of(data: DataDir) -> dict[str, str]:
    """Return what the settings of the first replica of each service, and of the gateway, are read from.

    Raises StackError when no stack runs in the folder.
    """
    info, secrets = data.info(), data.secrets()
    if info is None:
        raise StackError(f"no stack runs in {data.path}; start it with `playbook-runs up --data-dir {data.path}`")
    postgres = Postgres(
        data.postgres, port=info.postgres_port, password=secrets.postgres_password, log=data.log("postgres")
    )
    passwords = {"runs": secrets.runs_password, "executor": secrets.executor_password}
    found = {
        f"{kind.upper()}_DATABASE_URL": postgres.url(user=f"{kind}_service", password=password, database=DATABASE)
        for kind, password in passwords.items()
    }
    found |= {
        "AUTH_MODE": info.auth,
        "AUTH_JWT_SECRET": secrets.jwt_secret,
        "RUNS_LISTEN": info.runs_targets[0],
        "EXECUTOR_LISTEN": info.executor_targets[0],
        "EXECUTOR_TARGET": info.executor_targets[0],
    }
    if info.valkey_port is not None:
        valkey = Valkey(data.valkey, port=info.valkey_port, password=secrets.valkey_password, log=data.log("valkey"))
        found["BROKER_URL"] = valkey.url
    if info.http_url is not None:
        found["GATEWAY_LISTEN"] = urlsplit(info.http_url).netloc
    return found
