"""Real servers for the session: PostgreSQL with a migrated database for each test, Valkey."""

import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from uuid import uuid4

import kombu
import psutil
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling

from devstack.ports import free_ports
from devstack.postgres import Postgres
from devstack.stack import Stack, StackOptions
from devstack.valkey import Valkey
from servicekit.postgres.database import Database
from tests.support.forking import LoadedOnce
from tests.support.prepared import EXECUTOR_TEMPLATE, RUNS_TEMPLATE, Prepared

# Of several workers (`make test`) one runs a whole group. A file is one by itself, but for these: the e2e tests share a
# stack, and in three groups they take no longer than the rest.
GROUPS = {
    "command line": (
        "tests/e2e/test_cli_",
        "tests/e2e/test_hostile_texts.py",
        "tests/e2e/test_regressions.py::test_REG_003_after_the_suite_nothing_is_left_behind[command line]",
    ),
    "stacks of their own": (
        "tests/e2e/test_cancel_and_retry.py::test_a_cancel_works_while_no_executor_lives",
        "tests/e2e/test_cancel_and_retry.py::test_a_deadline_passes_while_no_executor_lives",
        "tests/e2e/test_doctor.py",
        "tests/e2e/test_edge_cases.py::test_EC_001",
        "tests/e2e/test_watch.py::test_WAT_001_a_quiet_stream",
    ),
    "e2e": ("tests/e2e/",),
}
# Files that take ten seconds and more, most of which they wait, come after those groups; unit tests fill what is left.
LONG = tuple(
    f"tests/integration/test_{name}"
    for name in (
        *("broker", "schema_health", "up.", "dead_letters", "runs_server", "compose", "traces", "clean_logs"),
        *("hostile", "repeats_beyond", "gateway", "refused_contents"),
    )
)

# No time limits of its own: the machine may be busy with other things.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


# Temporary files go into memory where it has room: PostgreSQL makes thousands of files for each database and each
# TRUNCATE, which costs a disk's file system four times the CPU.
MEMORY = Path("/dev/shm")
ROOM = 4 << 30  # bytes, of which a session takes one


def pytest_configure() -> None:
    # Take Ctrl-C also where the shell that started us in the background has it ignored: tests send it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ and has_room(MEMORY):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


def has_room(folder: Path) -> bool:
    """Whether a folder in memory is there and takes what tests write, programs that they run included."""
    if not folder.is_dir() or psutil.virtual_memory().available < ROOM:
        return False
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize >= ROOM and not there.f_flag & os.ST_NOEXEC


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from going through four thousand tests and all modules, again and again.

    A full collection takes a third of a second then, which tests of what holds the event loop up would count.
    The services freeze what they load, too.
    """
    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    return collected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is at it when the others have ended."""
    order = {name: position for position, name in enumerate(GROUPS)}

    def position(item: pytest.Item) -> int:
        if item.nodeid.startswith(LONG):
            return len(order)
        unit = item.nodeid.startswith("tests/unit/")
        return order.get(group_of(item.nodeid), len(order) + (2 if unit else 1))

    items.sort(key=position)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> "GroupScheduling":
    return GroupScheduling(config, log)


class GroupScheduling(LoadFileScheduling):
    """Give a worker all tests of a group, in their order. (--dist=loadgroup does nothing with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """Return the group of a test."""
    return next((name for name, starts in GROUPS.items() if nodeid.startswith(starts)), nodeid.partition("::")[0])


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def prepared(session_folder: Path) -> Prepared:
    """PostgreSQL data, initialised and migrated, that all workers of the session copy."""
    return Prepared.in_session(session_folder)


@pytest.fixture(scope="session")
def stack_folder(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Return a new folder for a stack, which finds its database initialised and migrated."""
    return lambda: prepared.stack_folder(tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="session")
def loaded(session_folder: Path) -> Iterator[LoadedOnce]:
    """Our commands, for processes that are forked, as loading takes longer than most tests."""
    with LoadedOnce(session_folder) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def new_stack(stack_folder: Callable[[], Path], loaded: LoadedOnce) -> Callable[..., Stack]:
    """Return a stack, to be entered, with the given options of StackOptions; its services are forked, not loaded."""
    return lambda **options: Stack(StackOptions(data_dir=stack_folder(), durable=False, spawn=loaded.spawn, **options))


@pytest.fixture(scope="session")
def postgres_server(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with prepared.postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def empty_database_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of a database without anything."""
    yield from new_database(postgres_server)


@pytest.fixture(scope="session")
def _runs_database_url(postgres_server: Postgres) -> Iterator[str]:
    yield from new_database(postgres_server, template=RUNS_TEMPLATE)


@pytest.fixture
def runs_database_url(_runs_database_url: str) -> str:
    """The URL of a migrated and empty database of runs_service."""
    with psycopg.connect(_runs_database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE runs.runs, runs.usage_daily, runs.usage_increments CASCADE")
    return _runs_database_url


@pytest.fixture(scope="session")
def executor_database_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of the session's database of executor_service; see `executor_database` for one that is empty."""
    yield from new_database(postgres_server, template=EXECUTOR_TEMPLATE)


@pytest.fixture
async def runs_database(runs_database_url: str) -> AsyncIterator[Database]:
    database = Database(runs_database_url, pool_size=5, application_name="test")
    yield database
    await database.close()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with start_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """The URL of RabbitMQ, which is shared: use names of your own, and delete what you made."""
    named = os.environ.get("TEST_AMQP_URL")
    url = named or "amqp://guest:guest@127.0.0.1:5672//"
    with kombu.Connection(url, connect_timeout=1) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
        except Exception as error:
            message = f"no RabbitMQ at TEST_AMQP_URL or its default: {error}"
            if named and os.environ.get("CI") == "true":
                pytest.fail(message)  # where it was promised, its absence must not pass for success
            pytest.skip(message)
    return url


def start_valkey(folder: Path) -> Valkey:
    """Return a server, to be entered, that has `folder` to itself."""
    return Valkey(folder / "data", port=free_ports(1)[0], log=folder / "log")


def new_database(server: Postgres, *, template: str = "template1") -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(database=name)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
