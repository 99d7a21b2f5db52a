"""With eager tasks, work of the library may start or finish where its task is created."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from async_redis_cache import CacheUnavailable
from harness import Server, StartServer
from harness.apis import configured

pytestmark = [
    pytest.mark.depends_on(),
    pytest.mark.not_with("uvloop", reason="it cannot make eager tasks"),
]

if sys.version_info < (3, 12):
    pytest.skip("tasks are eager on Python 3.12 and later only", allow_module_level=True)


@pytest.fixture(autouse=True)
async def eager_tasks() -> None:
    if sys.version_info >= (3, 12):  # Said once more, for type checkers.
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)


async def test_unix_socket_that_is_not_there_is_tried_again(private_server: StartServer) -> None:
    """An attempt to connect that fails at once, without a turn of the loop, is not the last one."""
    server = private_server(tcp=False)
    server.stop()
    async with configured(server.url, require_connection=False, retries=0) as cache:
        for _ in range(3):
            with pytest.raises(CacheUnavailable):
                await cache.store(None, "key", 1)
        server.start()
        async with asyncio.timeout(60):
            while cache.stats().stores == 0:
                with contextlib.suppress(CacheUnavailable):
                    await cache.store(None, "key", 1)


async def test_value_of_another_process_is_read_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that begins a load and finds a value by now returns it."""
    async with configured(server.url) as one, configured(server.url) as other:
        engine = one._lifecycle.ready().engine
        read = engine.reads.fetch

        async def stored_meanwhile(key: bytes) -> bytes | None:
            nothing = await read(key)
            await other.store(None, "key", "stored")
            return nothing

        monkeypatch.setattr(engine.reads, "fetch", stored_meanwhile)
        async with asyncio.timeout(60):
            assert await one.retrieve_or_load(None, "key", lambda: "loaded") == "stored"
        assert one.stats().loads == 0


async def test_loader_that_runs_at_once_closes_the_cache(private_server: StartServer) -> None:
    """While the server is unreachable a loader runs at once, and may close the cache before its load is registered."""
    server = private_server(tcp=False)
    server.stop()
    async with configured(server.url, require_connection=False, retries=0) as cache:

        async def load() -> int:
            await cache.close(None)
            return 1

        async with asyncio.timeout(60):
            assert await cache.retrieve_or_load(None, "key", load) == 1
