"""`options.fail_open`: which calls succeed while the server is unreachable."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from async_redis_cache import CacheEntry, CacheError, CacheInputError, CacheUnavailable
from harness import StartServer, await_until
from harness.apis import Api, configured
from harness.operations import OPERATIONS

pytest_plugins = ["near_fixtures"]
pytestmark = pytest.mark.depends_on("api")

OTHERWISE: dict[str, Any] = {
    "store": 1,
    "retrieve": None,
    "remove": None,
    "store_many": None,
    "retrieve_many": {},
    "remove_many": 0,
    "invalidate_tags": None,
    "contains": False,
    "touch": False,
    "time_to_live": None,
}
RAISE = sorted({*OPERATIONS} - {*OTHERWISE})


async def load() -> str:
    return "loaded"


@pytest.mark.parametrize("near", [False, True])
async def test_calls_fail_open_with_always(
    private_server: StartServer, api: Api, *, near: bool
) -> None:
    """Each method returns what an empty cache returns, soon at next to no cost; two still raise."""
    server = private_server()
    options = {"retries": 0, "near_cache_enabled": near, "key_prefix": "a:"}
    async with configured(server.url, api, fail_open="always", **options) as cache:
        await cache.store(None, "key", 1)
        server.stop()
        for name, expected in OTHERWISE.items():
            assert await OPERATIONS[name](cache) == expected
        entry = await cache.retrieve_entry(None, "key")
        assert entry == CacheEntry(None, "missing", None, None)
        assert await cache.retrieve_or_load(None, "key", load) == "loaded"
        for name in RAISE:
            with pytest.raises(CacheError):
                await OPERATIONS[name](cache)
        with pytest.raises(CacheInputError):
            await cache.retrieve(None, "")
        assert cache.stats().open_circuits
        begun = time.monotonic()
        for _ in range(100):
            await cache.retrieve(None, "key")
            await cache.store(None, "key", 2)
        # Far less than so many attempts to connect would have taken at their pace.
        assert time.monotonic() - begun < 15
        server.start()
        await await_until(lambda: not cache.stats().open_circuits)
        await await_until(lambda: cache.stats().pending_invalidations == 0)
        await cache.store(None, "key", 3)
        assert await cache.retrieve(None, "key") == 3


async def test_calls_raise_with_never(private_server: StartServer, api: Api) -> None:
    """No loader is called while the server is unreachable; before and after, loads work as usual."""
    server = private_server()
    options = {"retries": 0, "fail_open": "never"}
    async with configured(server.url, api, **options) as cache:
        assert await cache.retrieve_or_load(None, "key", load) == "loaded"
        loads = cache.stats().loads
        server.stop()
        for call in (
            lambda: cache.retrieve_or_load(None, "other", load),
            lambda: cache.retrieve_or_load_entry(None, "other", load),
            lambda: cache.refresh(None, "key", load),
            lambda: cache.retrieve_or_load_many(None, ["other"], lambda _: {"other": 1}),
            lambda: cache.retrieve(None, "key"),
        ):
            with pytest.raises(CacheError):
                await call()
        assert cache.stats().loads == loads
        server.start()
        await await_until(lambda: not cache.stats().open_circuits)
        assert await cache.retrieve_or_load(None, "other", load) == "loaded"


async def test_load_raises_with_never_when_the_server_dies_before_the_lease(
    private_server: StartServer,
) -> None:
    """Nor then."""
    server = private_server()
    async with configured(server.url, retries=0, fail_open="never") as cache:
        engine = cache._lifecycle.ready().engine
        read = engine.reads.fetch

        async def dying(key: bytes) -> bytes | None:
            data = await read(key)
            await asyncio.to_thread(server.stop)
            return data

        engine.reads.fetch = dying  # type: ignore[method-assign]
        with pytest.raises(CacheError):
            await cache.retrieve_or_load(None, "key", load)
        assert cache.stats().loads == 0


async def test_only_loads_fail_open_by_default(private_server: StartServer, api: Api) -> None:
    """The other methods raise."""
    server = private_server()
    async with configured(server.url, api, retries=0) as cache:
        server.stop()
        assert await cache.retrieve_or_load(None, "key", load) == "loaded"
        with pytest.raises(CacheUnavailable):
            await cache.retrieve(None, "key")
