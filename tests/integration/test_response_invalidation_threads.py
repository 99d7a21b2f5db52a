"""Invalidation of stored responses by code without asyncio, on a real server."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from anyio import from_thread
from fastapi import FastAPI, Request

from async_redis_cache import AsyncRedisCache, CacheError, RedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache.asgi import (
    ResponseCache,
    cache_response,
    invalidate_url,
    invalidate_url_sync,
)
from harness import await_until

if TYPE_CHECKING:
    from harness import Server, StartServer

pytestmark = pytest.mark.depends_on()


@pytest.mark.parametrize("has_loop", [False, True])
async def test_plain_handler_invalidates_a_url(
    any_server: Server, key_prefix: str, *, has_loop: bool
) -> None:
    """A handler in a thread invalidates a relative URL, with a cache of its own, or with that of the application."""
    stock = 1
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    threads = RedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = FastAPI()
    app.add_middleware(ResponseCache, cache=cache)

    @app.get("/stock")
    @cache_response(ttl=60)
    async def read() -> int:
        return stock

    @app.post("/deliveries")
    def deliver(request: Request) -> None:
        nonlocal stock
        stock += 1
        path = request.url_for("read").path
        if has_loop:
            from_thread.run(invalidate_url, cache, path)
        else:
            invalidate_url_sync(threads, path)

    transport = httpx.ASGITransport(app, root_path="/shop")
    async with cache, httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        await asyncio.to_thread(threads.open, None)
        try:
            for delivery in range(1, 4):
                answers = [(await client.get("/stock")).text for _ in range(2)]
                assert answers == [str(delivery)] * 2
                assert (await client.post("/deliveries")).is_success
        finally:
            await asyncio.to_thread(threads.close, None)


async def test_thread_of_an_aiohttp_handler_invalidates_a_url(
    any_server: Server, key_prefix: str
) -> None:
    """A function that a handler of aiohttp runs in a thread may pass a relative URL, too."""
    stock = 1
    threads = RedisCache.from_url(any_server.url, key_prefix=key_prefix)

    @on_aiohttp.cache_response(ttl=60)
    async def read(_: web.Request) -> web.StreamResponse:
        return web.Response(text=str(stock))

    async def deliver(_: web.Request) -> web.StreamResponse:
        nonlocal stock
        stock += 1
        await asyncio.to_thread(on_aiohttp.invalidate_url_sync, threads, "/stock")
        return web.Response()

    app = web.Application(middlewares=[on_aiohttp.response_cache()])
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/stock", read)
    app.router.add_post("/deliveries", deliver)
    await asyncio.to_thread(threads.open, None)
    try:
        async with TestClient(TestServer(app)) as client:
            texts: list[str] = []
            for _ in range(2):
                texts += [await (await client.get("/stock")).text() for _ in range(2)]
                assert (await client.post("/deliveries")).ok
    finally:
        await asyncio.to_thread(threads.close, None)
    assert texts == ["1", "1", "2", "2"]


async def test_job_invalidates_a_run(any_server: Server, key_prefix: str) -> None:
    """A job in a thread invalidates all variants of a URL; what a handler has read before is not stored."""
    stock, runs = 1, 0
    may_end = asyncio.Event()
    may_end.set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal runs
        runs += 1
        body = b"%d" % stock
        await may_end.wait()
        headers = [(b"vary", b"X-Tenant")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def job() -> None:
        with RedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
            invalidate_url_sync(cache, "https://SHOP:443/stock")

    async with AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) as cache:
        cached = ResponseCache(app, cache=cache, rules={"*": {"ttl": 60}})
        transport = httpx.ASGITransport(cached)
        async with httpx.AsyncClient(transport=transport, base_url="https://shop") as client:
            get = partial(client.get, "/stock")
            assert (await get(headers={"X-Tenant": "a"})).text == "1"
            may_end.clear()
            reading = asyncio.ensure_future(get(headers={"X-Tenant": "b"}))
            await await_until(lambda: runs == 2)
            stock = 2
            await asyncio.to_thread(job)
            may_end.set()
            assert (await reading).text == "1"
            assert [(await get(headers={"X-Tenant": tenant})).text for tenant in "ab"] == ["2"] * 2
        await cached.close()


def test_invalidation_in_a_thread_that_fails_is_raised(private_server: StartServer) -> None:
    """While the server is unreachable, the response may be stored still; a cache of the other kind is refused."""
    server = private_server()
    with RedisCache.from_url(server.url, command_timeout=200) as cache:
        server.freeze()
        try:
            with pytest.raises(CacheError):
                invalidate_url_sync(cache, "http://shop/stock")
        finally:
            server.thaw()
        with pytest.raises(ValueError, match="absolute"):
            invalidate_url_sync(cache, "/stock")
    other: Any = AsyncRedisCache.from_url(server.url)
    with pytest.raises(TypeError, match="RedisCache, not AsyncRedisCache"):
        invalidate_url_sync(other, "http://shop/stock")
