"""Requests that schemathesis makes of /openapi.json, right ones and wrong ones: the server never fails."""

import asyncio
from collections import Counter
from collections.abc import Callable
from http.client import INTERNAL_SERVER_ERROR
from typing import Any
from urllib.parse import quote

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from gateway.app import OPENAPI
from tests.faults.sizes import size
from tests.support.shop import Shop

EXAMPLES = size(300, 25)  # right ones of an operation, and as many wrong ones
TIMEOUT = 20  # seconds
OF_SHOP = 3  # of so many requests one is about the shop that is there, and of its run
ANSWERS_WITHOUT_INPUT = ("/healthz", "/readyz")


class Fuzz:
    """Sends generated requests, and counts what they got."""

    def __init__(self, shop: Shop, run_id: str) -> None:
        assert shop.stack.gateway
        self.url = shop.stack.gateway.url
        self.sent = 0
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self._known = {"project_id": shop.project, "run_id": run_id}
        self._session = requests.Session()
        self._session.trust_env = False
        self._token = shop.stack.token("*", "OWNER")

    def try_all(self) -> None:
        """Send requests to every operation. Streams are left once they have a status."""
        with self._session:
            for found in schemathesis.openapi.from_path(OPENAPI).get_all_operations():
                operation = found.ok()
                modes = list(GenerationMode)[: 1 if operation.path in ANSWERS_WITHOUT_INPUT else None]
                for mode in modes:

                    @settings(
                        max_examples=EXAMPLES,
                        database=None,
                        derandomize=True,
                        phases=[Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    )
                    @given(case=operation.as_strategy(generation_mode=mode))
                    def send(case: schemathesis.Case) -> None:
                        self._send(case)

                    send()

    def _send(self, case: schemathesis.Case) -> None:
        self.sent += 1
        if self.sent % OF_SHOP == 0:
            case.path_parameters.update(
                (name, quote(value)) for name, value in self._known.items() if name in case.path_parameters
            )
        request: dict[str, Any] = case.as_transport_kwargs(base_url=self.url)
        request["headers"]["Authorization"] = f"Bearer {self._token}"
        with self._session.request(**request, timeout=TIMEOUT, stream=True, allow_redirects=False) as answer:
            self.statuses[answer.status_code] += 1
            if not answer.ok and not _is_problem(answer):
                self.failures.append(f"{case.method} {request['url']} {answer.status_code} {answer.text[:300]}")


def _is_problem(answer: requests.Response) -> bool:
    """Whether it says that the request is wrong, and why."""
    is_described = answer.headers.get("content-type") == "application/problem+json" and answer.json()["reason"]
    return bool(is_described) and answer.status_code < INTERNAL_SERVER_ERROR


async def test_no_generated_request_makes_the_server_fail(start_stack: Callable[..., Any]) -> None:
    shop = await start_stack(http=True)
    await shop.stock(3)
    fuzz = Fuzz(shop, (await shop.preview()).id)
    await asyncio.to_thread(fuzz.try_all)
    print(f"{fuzz.sent} requests: {dict(sorted(fuzz.statuses.items()))}")
    assert fuzz.failures == []
    assert {200, 201, 400, 404} <= fuzz.statuses.keys()
    for process in shop.stack.processes:
        assert "Traceback" not in process.log.read_text()
