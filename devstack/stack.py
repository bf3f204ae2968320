"""The whole product on one machine: PostgreSQL, Valkey, replicas of both services, and the gateway."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, Self

from devstack.datadir import DataDir, Secrets, StackInfo, default_data_dir
from devstack.gateway import Gateway
from devstack.lock import Lock
from devstack.ports import free_ports, require_free
from devstack.postgres import Postgres
from devstack.process import Process, Spawn, spawn, stop_all, wait_all_ready
from devstack.provision import DATABASE, provision
from devstack.services import Kind, Service, inherited_environment, migrate, writer
from devstack.supervisor import Supervisor
from devstack.valkey import Valkey

DEFAULT_PLAN = "BUSINESS"  # unless the caller's environment has another: the person who runs a stack is its platform


@dataclass(frozen=True)
class StackOptions:
    """How to run a stack. The defaults: one replica of each service, on free ports, no gateway, data kept."""

    data_dir: Path = field(default_factory=default_data_dir)
    runs_port: int | None = None  # of the first replica; None: a free one. Further replicas get free ones
    executor_port: int | None = None
    http: bool = False  # True: with the gateway
    http_port: int | None = None
    runs_replicas: int = 1
    executor_replicas: int = 1
    broker: bool = True  # False: no Valkey, runs execute inline
    auth: Literal["jwt", "disabled"] = "jwt"
    durable: bool = True  # False: faster, and data is lost when the machine goes down
    env: Mapping[str, str] = field(default_factory=dict)  # for both services; overrides what the stack sets itself
    runs_env: Mapping[str, str] = field(default_factory=dict)  # for runs_service, overrides `env`
    executor_env: Mapping[str, str] = field(default_factory=dict)
    gateway_env: Mapping[str, str] = field(default_factory=dict)  # only what a gateway reads reaches it
    spawn: Spawn = spawn  # starts the services and the gateway


class Stack:
    """A stack, running between `start` and `stop`, or within a `with` block.

        with Stack(StackOptions(data_dir=folder)) as stack:
            channel = grpc.insecure_channel(stack.runs_target, options=[("grpc.enable_http_proxy", 0)])
            token = stack.token("shop-1", "OWNER")

    Its parts can be stopped, killed and started again one by one: `stack.runs[0].kill()`. All of them end with this
    process. On Linux they end, more precisely, with the *thread* that started them: start a stack, and any part of
    it, from the main thread or one that lives as long.
    """

    postgres: Postgres
    valkey: Valkey | None
    runs: list[Service]
    executors: list[Service]
    gateway: Gateway | None
    secrets: Secrets

    def __init__(self, options: StackOptions | None = None) -> None:
        self.options = options or StackOptions()
        self.data_dir = DataDir(self.options.data_dir)
        self._running = contextlib.ExitStack()

    @property
    def runs_target(self) -> str:
        """The address, HOST:PORT, of the first runs_service."""
        return self.runs[0].target

    @property
    def executor_target(self) -> str:
        """The address, HOST:PORT, of the first executor_service."""
        return self.executors[0].target

    @property
    def processes(self) -> list[Process]:
        """All processes, in the order in which they are started."""
        stores = [*([self.valkey] if self.valkey else []), self.postgres]
        return [*([self.gateway] if self.gateway else []), *stores, *self.executors, *self.runs]

    @property
    def writer(self) -> str:
        """Who writes suggestions, as a person wants to read it."""
        return writer(self.executors[0].env)

    def token(self, project: str, role: str, user: str = "local-user") -> str:
        """Return a token for `user` with `role` (OWNER, EDITOR, VIEWER) in `project` (`*`: in all projects)."""
        return self.secrets.token({project: role}, user=user)

    def database_url(self, service: Literal["runs", "executor"]) -> str:
        """Return the URL by which a service reaches its schema."""
        password = self.secrets.runs_password if service == "runs" else self.secrets.executor_password
        return self.postgres.url(user=f"{service}_service", password=password, database=DATABASE)

    def start(self) -> None:
        """Start everything and return when both services and the gateway serve.

        Raises StackError, with everything stopped again, when something cannot start: the data folder is in use, a
        port is taken, a process ended.
        """
        with contextlib.ExitStack() as running:
            lock = self.data_dir.occupy()
            running.callback(lock.release)
            self._assemble(lock)
            running.callback(self._stop_processes)
            if self.gateway:
                self.gateway.start()  # it connects to the services at the first call
            self._start_stores()
            one_of_each = [self.runs[0], self.executors[0]]
            migrate([one for one in one_of_each if not one.is_migrated(self.database_url(one.kind))])
            self._start_services()
            running.callback(self.data_dir.withdraw)
            self.data_dir.publish(self._info())
            self._running = running.pop_all()

    def stop(self) -> None:
        """Stop everything, services first. A second time does nothing."""
        self._running.close()

    def supervise(self, report: Callable[[str], None]) -> NoReturn:
        """Start processes again that die, with a line to `report` for each.

        Raises StackError when one keeps dying: see Supervisor.
        """
        Supervisor(self.processes, report).run()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _assemble(self, lock: Lock) -> None:
        """Put the parts together; nothing runs yet."""
        options, data = self.options, self.data_dir
        self.secrets = data.make_secrets()
        postgres_port, valkey_port = free_ports(2)
        self.postgres = Postgres(
            data.postgres,
            port=postgres_port,
            password=self.secrets.postgres_password,
            log=data.log("postgres"),
            durable=options.durable,
            keep_open=[lock.descriptor],
        )
        self.valkey = None
        if options.broker:
            self.valkey = Valkey(
                data.valkey,
                port=valkey_port,
                password=self.secrets.valkey_password,
                log=data.log("valkey"),
                keep_open=[lock.descriptor],
            )
        shared = {
            **inherited_environment(),
            "AUTH_MODE": options.auth,
            "AUTH_JWT_SECRET": self.secrets.jwt_secret,
            **({"BROKER_URL": self.valkey.url} if self.valkey else {}),
        }

        def replicas(kind: Kind, count: int, port: int | None, env: Mapping[str, str]) -> list[Service]:
            first = port and require_free(port, f"--{kind}-port")
            ports = [*([first] if first else []), *free_ports(count)][:count]
            return [
                Service(
                    kind,
                    port=port,
                    env=env,
                    data=data,
                    replica=replica,
                    keep_open=[lock.descriptor],
                    spawn=options.spawn,
                )
                for replica, port in enumerate(ports, start=1)
            ]

        self.executors = replicas(
            "executor",
            options.executor_replicas,
            options.executor_port,
            {
                **shared,
                "DEFAULT_PLAN": shared.get("DEFAULT_PLAN") or DEFAULT_PLAN,
                "EXECUTOR_DATABASE_URL": self.database_url("executor"),
                **options.env,
                **options.executor_env,
            },
        )
        self.runs = replicas(
            "runs",
            options.runs_replicas,
            options.runs_port,
            {
                **shared,
                "RUNS_DATABASE_URL": self.database_url("runs"),
                "EXECUTOR_TARGET": _any_of(self.executors),
                **options.env,
                **options.runs_env,
            },
        )

        self.gateway = None
        if options.http:
            self.gateway = Gateway(
                port=require_free(options.http_port, "--http-port") if options.http_port else free_ports(1)[0],
                runs_target=_any_of(self.runs),
                executor_target=_any_of(self.executors),
                env={**shared, **options.env, **options.gateway_env},
                data=data,
                keep_open=[lock.descriptor],
                spawn=options.spawn,
            )

    def _start_stores(self) -> None:
        stores = [process for process in (self.valkey, self.postgres) if process]
        for store in stores:
            store.start()
        wait_all_ready(stores)
        provision(
            self.postgres.url(),
            {"runs_service": self.secrets.runs_password, "executor_service": self.secrets.executor_password},
        )

    def _start_services(self) -> None:
        services = [*self.executors, *self.runs]
        for service in services:
            service.start()
        wait_all_ready([*services, *([self.gateway] if self.gateway else [])])

    def _stop_processes(self) -> None:
        if self.gateway:
            self.gateway.request_stop()  # its clients' calls end first
        stop_all([*self.runs, *self.executors, *([self.gateway] if self.gateway else [])])
        stop_all([self.postgres, *([self.valkey] if self.valkey else [])])

    def _info(self) -> StackInfo:
        return StackInfo(
            pid=os.getpid(),
            auth=self.options.auth,
            runs_targets=[service.target for service in self.runs],
            executor_targets=[service.target for service in self.executors],
            postgres_port=self.postgres.port,
            valkey_port=self.valkey.port if self.valkey else None,
            http_url=self.gateway.url if self.gateway else None,
        )


def _any_of(services: Sequence[Service]) -> str:
    """Return a gRPC target that reaches the first of `services` that answers."""
    targets = ",".join(service.target for service in services)
    return targets if len(services) == 1 else f"ipv4:{targets}"
