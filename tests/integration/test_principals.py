"""Calls that are served at the same time never see each other's principal: before, between and after awaits."""

import asyncio
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from servicekit.auth.principals import current_principal
from servicekit.auth.tokens import TokenAuthenticator
from servicekit.rpc.admission import Admission
from servicekit.rpc.interceptors.decoding import Decoding
from servicekit.rpc.interceptors.errors import ErrorTranslation
from servicekit.rpc.services import InterceptedServices
from servicekit.telemetry.metrics import Metrics
from tests.support.limits import limits
from tests.support.service import metadata
from tests.support.tokens import SECRET

CALLS = 50


async def test_calls_at_the_same_time_have_their_own_principals() -> None:
    all_there = asyncio.Barrier(2 * CALLS)

    def name() -> str:
        return current_principal().user_id

    async def unary(_request: Empty, context: Any) -> Empty:
        seen = [name()]
        await all_there.wait()
        seen.append(await asyncio.create_task(asyncio.sleep(0, name())))
        context.set_trailing_metadata([("seen", ",".join({*seen, name()}))])
        return Empty()

    async def stream(_request: Empty, context: Any) -> None:
        seen = [name()]
        await all_there.wait()
        for _ in range(3):
            await context.write(Empty())
            seen.append(name())
        context.set_trailing_metadata([("seen", ",".join(set(seen)))])

    admission = Admission(TokenAuthenticator([SECRET]), limits(), Metrics())
    services = InterceptedServices([ErrorTranslation()], [Decoding()], admission=admission)
    codec = (Empty.FromString, Empty.SerializeToString)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary, *codec),
        "Stream": grpc.unary_stream_rpc_method_handler(stream, *codec),
    }
    services.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Names", handlers)])
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([services])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(20):

        async def seen_by(method: str, user: str) -> tuple[str, str]:
            call = channel.unary_stream(f"/test.Names/{method}")(b"", metadata=metadata(user=user))
            async for _ in call:
                pass
            return user, str(dict(await call.trailing_metadata())["seen"])

        calls = [seen_by(method, f"{method}-{n}") for n in range(CALLS) for method in ("Unary", "Stream")]
        for user, seen in await asyncio.gather(*calls):
            assert seen == user
    await server.stop(None)
