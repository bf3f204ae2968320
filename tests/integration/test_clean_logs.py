"""Nothing that is secret, and no product text, gets into a log; and a fault that lasts does not fill it."""

import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from playbooks.runs.v1 import runs_service_pb2 as pb
from playbooks.runs.v1.run_pb2 import PlaybookRules, Run
from playbooks.runs.v1.runs_service_pb2_grpc import RunsServiceStub

from devstack.ports import HOST, free_ports
from devstack.stack import Stack
from tests.support.forking import Forks
from tests.support.openai_server import Behaviour, OpenAIServer
from tests.support.shop import TITLES, Shop, open_shop
from tests.support.tokens import hs256
from tests.support.waiting import eventually

MARK = "zanzibarian"  # a word of each product, each rule and each answer
FAULT = 3.0  # seconds; watchers look each second, runs are swept each half


@pytest.fixture(scope="module")
def openai() -> Iterator[OpenAIServer]:
    with OpenAIServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(new_stack: Callable[..., Stack], openai: OpenAIServer) -> Iterator[Stack]:
    env = {
        **openai.environment,
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
        "RUNS_RECONCILE_SECONDS": "0.5",
    }
    with new_stack(http=True, env=env) as stack:
        yield stack


@pytest.fixture
async def shop(stack: Stack) -> AsyncIterator[Shop]:
    async with open_shop(stack) as shop:
        yield shop


def written(stack: Stack) -> str:
    assert stack.gateway
    processes = [*stack.runs, *stack.executors, stack.gateway]
    return "".join(process.log.read_text() for process in processes)


async def test_the_logs_of_a_busy_stack_have_no_secret_and_no_product_text(
    shop: Shop, stack: Stack, openai: OpenAIServer, runs_forks: Forks, tmp_path: Path
) -> None:
    assert stack.valkey
    assert stack.gateway
    used = [shop.auth()["metadata"][0][1].removeprefix("Bearer ")]
    for number in range(3):
        text = f"<p>{MARK} light. Article lamp-{number}</p>"
        await shop.put(id=f"lamp-{number}", title=f"A {MARK} lamp", description=text)

    # Work, with answers and with what goes wrong at the provider, which quotes what it was sent.
    rules = PlaybookRules(enabled=True, prefix=f"{MARK}: ", forbidden_phrases=[MARK])
    preview = await shop.preview(rules=rules)
    await shop.draft_run(preview)
    applied = await shop.apply(preview)
    assert applied.status == Run.SUCCEEDED
    quoting = {"error": {"message": f"no {MARK} for {openai.api_key}", "type": "server_error", "code": MARK}}
    failures = [
        Behaviour(status=500, body=quoting),
        Behaviour(status=401, body=quoting),
        Behaviour(status=200, body=f"{MARK} {openai.api_key}"),
    ]
    for number, behaviour in enumerate(failures):
        openai.reset()
        openai.behave(behaviour)
        await shop.put(id=f"other-{number}", title=f"Another {MARK}", description=f"<p>{MARK} Article {number}</p>")
        assert (await shop.preview()).status == Run.FAILED
    openai.reset()

    # Callers who are refused.
    forged = hs256("another secret, long enough to sign", projects={shop.project: "OWNER"})
    stubs = [RunsServiceStub(channel) for channel in shop.channels.runs]
    for bearer in (forged, forged[:-4], "x.y.z", MARK):
        used.append(bearer)
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs[0].GetRun(
                pb.GetRunRequest(project_id=shop.project, run_id=preview.id),
                metadata=(("authorization", f"Bearer {bearer}"),),
            )
    async with shop.http() as http:
        for answer in (
            await http.get("runs", headers={"authorization": f"Bearer {forged}"}),
            await http.get(f"runs?token={used[0]}"),
            await http.post(f"{TITLES}/runs", json={"runType": MARK, MARK: MARK}),
            await http.post(f"{TITLES}/runs", content=MARK, headers={"content-type": "application/json"}),
        ):
            assert answer.status_code >= 400

    # Services whose addresses have wrong passwords in them.
    wrong = {
        "BROKER_URL": f"redis://somebody:hidden-{MARK}@{HOST}:{stack.valkey.port}",
        "RUNS_DATABASE_URL": stack.postgres.url(user="runs_service", password=f"hidden-{MARK}", database="nowhere"),
    }
    broken = {**stack.runs[0].env, **wrong, "RUNS_LISTEN": f"{HOST}:{free_ports(1)[0]}"}
    log = tmp_path / "broken"
    process = runs_forks.run(log, env=broken)
    for words in ("the database cannot be used", "the broker takes nothing"):
        await eventually(lambda words=words: words in log.read_text(), 20)
    process.kill()

    text = written(stack) + log.read_text()
    assert preview.id in text
    assert "GetRun UNAUTHENTICATED" in text  # it is at DEBUG
    secrets = stack.secrets
    hidden = {
        "product text": MARK,
        "AI key": openai.api_key,
        "JWT secret": secrets.jwt_secret,
        "database password": secrets.runs_password,
        "executor's database password": secrets.executor_password,
        "server's password": secrets.postgres_password,
        "broker's password": secrets.valkey_password,
        **{f"token {number}": bearer for number, bearer in enumerate(used)},
        "signatures": "eyJ",  # no token at all begins otherwise
    }
    found = {name: _around(text, secret) for name, secret in hidden.items() if secret in text}
    assert found == {}


def _around(text: str, secret: str) -> list[str]:
    return [line[:600] for line in text.splitlines() if secret in line][:3]


async def test_a_fault_that_lasts_is_a_few_lines(shop: Shop, stack: Stack) -> None:
    await shop.stock(1)
    run = (await shop.create(Run.PREVIEW_GENERATE)).run
    before = len(written(stack))
    assert stack.valkey
    watchers = [
        shop.runs().WatchRuns(pb.WatchRunsRequest(project_id=shop.project), **shop.auth()),
        shop.runs().WatchRun(
            pb.WatchRunRequest(project_id=shop.project, run_id=run.id, after_sequence=1), **shop.auth()
        ),
    ]
    try:
        await watchers[0].read()
        stack.valkey.kill()
        stack.postgres.kill()
        # Callers, watchers and every worker meet it, again and again.
        until, refused = time.monotonic() + FAULT, 0
        while time.monotonic() < until or refused <= 100 or "watchers of projects wait" not in written(stack)[before:]:
            try:
                await shop.runs().ListRuns(pb.ListRunsRequest(project_id=shop.project), **shop.auth())
            except grpc.aio.AioRpcError as error:
                refused += error.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        for watcher in watchers:
            watcher.cancel()
        stack.postgres.start()
        stack.valkey.start()
    lines = [json.loads(line) for line in written(stack)[before:].splitlines() if line.startswith("{")]
    loud = [line for line in lines if line["level"] in ("warning", "error")]
    kinds = Counter((line["service"], re.sub(r"[0-9.]+", "#", line["message"])) for line in loud)
    assert {kind: count for kind, count in kinds.items() if count > 1} == {}
