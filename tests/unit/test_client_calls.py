"""The client's single calls, against a scripted server: retries, tokens, pages and batches."""

from pathlib import Path
from uuid import UUID

import grpc
import pytest
from playbooks.executor.v1 import catalog_service_pb2 as catalog_pb2
from playbooks.runs.v1.run_pb2 import Run

from runs_client.client import RunsClient
from runs_client.connection import Connection
from runs_client.errors import ServiceCallError, Violation
from runs_client.executor import ExecutorClient
from tests.support.scripted_service import Script, serving


class TestCalls:
    async def test_an_unavailable_service_is_asked_again(self) -> None:
        script = Script(run=Run(id="flaky"))
        async with serving(script) as target, RunsClient(target, token="abc") as client:
            assert (await client.get("p", "r")).id == "flaky"
            assert script.calls == 3
            script.calls = 0
            assert (await client.get_usage("p")).to == "2026-05-04"
            assert script.calls == 3
        assert script.authorization == "Bearer abc"

    @pytest.mark.parametrize("own", [None, "0199d5c2-7c55-4bd4-b9c1-5f1c4a1f6f0e"], ids=["made", "given"])
    async def test_calls_that_make_a_run_repeat_their_request_id(self, own: str | None) -> None:
        script = Script()
        async with serving(script) as target, RunsClient(target) as client:
            for _ in range(2):
                await client.create("p", "missing_seo_title", Run.PREVIEW_GENERATE, request_id=own)
                await client.preview("p", "missing_seo_title", request_id=own)
                await client.apply("p", "missing_seo_title", scope_id="s", rules_hash="h", request_id=own)
        first, second = script.made[::2], script.made[1::2]
        assert len(first) == 6
        assert first == second  # the attempts at one call
        ids = [str(UUID(request.request_id)) for request in first]
        assert set(ids) == {own} if own else len(set(ids)) == 6

    async def test_a_function_is_asked_for_the_token_of_each_call(self) -> None:
        tokens = iter(["one", "two"])
        script = Script(run=Run(id="r"))
        async with serving(script) as target, RunsClient(target, token=lambda: next(tokens)) as client:
            for expected in ("one", "two"):
                await client.get("p", "r")
                assert script.authorization == f"Bearer {expected}"

    async def test_a_function_whose_token_no_call_can_carry_fails_its_call(self) -> None:
        async with RunsClient("127.0.0.1:1", token=lambda: "a\nb") as client:
            with pytest.raises(ServiceCallError, match="the token has a line break or a character"):
                await client.get("p", "r")

    async def test_an_error_carries_all_details_of_the_status(self) -> None:
        async with serving(Script(run=Run(id="bad"))) as target, RunsClient(target) as client:
            with pytest.raises(ServiceCallError) as refusal:
                await client.get("p", "r")
        error = refusal.value
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.reason == "VALIDATION_FAILED"
        assert error.message == "refused: VALIDATION_FAILED, meta.sample_size"
        assert error.violations == (Violation("meta.sample_size", "too many"),)
        assert error.metadata == {"run_id": "r"}
        assert error.retry_after == 1.5

    async def test_lists_go_on_over_pages(self) -> None:
        async with serving(Script()) as target, RunsClient(target) as client:
            runs = [run.id async for run in client.list("p", scope_id="s")]
        assert runs == ["s0a", "s0b", "s1a", "s1b", "s2a", "s2b"]

    async def test_products_go_out_in_batches(self) -> None:
        script = Script()
        products = [catalog_pb2.Product(id=str(number), title="t") for number in range(1201)]
        async with serving(script) as target, ExecutorClient(target) as client:
            stored = await client.put_products("p", products)
        assert script.batches == [500, 500, 201]
        assert (stored.created, stored.updated) == (1201, 3)

    async def test_long_products_go_out_in_smaller_batches(self) -> None:
        script = Script()
        products = [catalog_pb2.Product(id=str(number), description="x" * 1000) for number in range(5)]
        products.append(catalog_pb2.Product(id="long", description="x" * 5000))
        async with serving(script) as target, ExecutorClient(target) as client:
            await client.put_products("p", products, batch_bytes=3000)
        assert script.batches == [2, 2, 1, 1]

    async def test_products_are_deleted_in_batches(self) -> None:
        script = Script()
        async with serving(script) as target, ExecutorClient(target) as client:
            assert await client.delete_products("p", [str(number) for number in range(2001)]) == 2001
            assert await client.delete_products("p", []) == 0
        assert script.batches == [1000, 1000, 1]

    async def test_a_bad_product_is_named_by_its_id(self) -> None:
        products = [catalog_pb2.Product(id=f"p{number}", title="t") for number in range(503)]
        products[501].title = "bad"
        async with serving(Script()) as target, ExecutorClient(target) as client:
            with pytest.raises(ServiceCallError) as refusal:
                await client.put_products("p", products)
        assert refusal.value.violations == (Violation("products['p501'].title", "too many"),)
        assert refusal.value.message.endswith("products['p501'].title")
        assert refusal.value.code is grpc.StatusCode.INVALID_ARGUMENT

    async def test_no_server_is_a_code_without_reason(self) -> None:
        async with serving(Script()) as target:
            pass  # a port that was ours, and where no server answers now
        async with RunsClient(target) as client:
            with pytest.raises(ServiceCallError) as refusal:
                await client.get("p", "r")
        assert (refusal.value.code, refusal.value.reason) == (grpc.StatusCode.UNAVAILABLE, "")

    @pytest.mark.parametrize("token", ["é", "a\nb", "a\tb", "a\0", "abc\n"])
    async def test_a_token_that_no_call_can_carry_is_refused_at_once(self, token: str) -> None:
        for client in (RunsClient, ExecutorClient):
            with pytest.raises(ServiceCallError, match="the token has a line break or a character") as refusal:
                client("127.0.0.1:1", token=token)
            assert (refusal.value.code, refusal.value.target) == (grpc.StatusCode.UNAUTHENTICATED, "127.0.0.1:1")

    @pytest.mark.parametrize("given", ["cert_file", "key_file"])
    async def test_a_certificate_and_its_key_go_together(self, given: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="go together"):
            Connection("127.0.0.1:1", **{given: tmp_path / "file"})  # type: ignore[arg-type]
