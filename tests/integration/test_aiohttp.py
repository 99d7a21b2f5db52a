"""The cache inside an aiohttp application."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from async_redis_cache import AsyncRedisCache
from async_redis_cache.aiohttp import CACHE, cache_context, get_cache
from harness import Server

CARTS = web.AppKey("CARTS", AsyncRedisCache)


async def read(request: web.Request) -> web.Response:
    cache = get_cache(request)
    return web.json_response(await cache.retrieve(None, request.match_info["key"]))


async def write(request: web.Request) -> web.Response:
    cache = get_cache(request)
    value = await cache.store(None, request.match_info["key"], await request.text())
    return web.json_response(value)


def serving() -> web.Application:
    app = web.Application()
    app.add_routes([web.get("/{key}", read), web.put("/{key}", write)])
    return app


async def test_context_opens_the_cache_for_the_handlers_and_closes_it(
    any_server: Server, key_prefix: str
) -> None:
    """A cache given to `cache_context` is open exactly while the application runs."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = serving()
    app.cleanup_ctx.append(cache_context(cache))

    assert not cache.is_open()
    async with TestClient(TestServer(app)) as client:
        assert cache.is_open()
        assert app[CACHE] is cache
        assert await (await client.put("/a", data="ABC")).json() == "ABC"
        assert await (await client.get("/a")).json() == "ABC"
        assert await (await client.get("/b")).json() is None
    assert not cache.is_open()


async def test_several_caches_live_under_keys_of_their_own(any_server: Server) -> None:
    """Each key leads to its own cache."""
    pages = AsyncRedisCache.from_url(any_server.url, key_prefix="pages:")
    carts = AsyncRedisCache.from_url(any_server.url, key_prefix="carts:")

    async def is_wired(request: web.Request) -> web.Response:
        wired = get_cache(request) is pages and get_cache(request, CARTS) is carts
        return web.json_response(wired)

    app = web.Application()
    app.add_routes([web.get("/", is_wired)])
    app.cleanup_ctx.extend([cache_context(pages), cache_context(carts, CARTS)])
    async with TestClient(TestServer(app)) as client:
        assert await (await client.get("/")).json() is True


async def test_mounted_application_finds_the_cache_of_its_parent(
    any_server: Server, key_prefix: str
) -> None:
    """A sub-application needs no cache of its own."""
    app = web.Application()
    app.cleanup_ctx.append(
        cache_context(AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix))
    )
    app.add_subapp("/mounted", serving())
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/mounted/a")).status == 200


async def test_two_caches_under_one_key_are_refused(any_server: Server, key_prefix: str) -> None:
    """One cache does not take another's place unnoticed: the application does not start."""
    app = web.Application()
    first, second = (
        AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix) for _ in range(2)
    )
    app.cleanup_ctx.extend([cache_context(first), cache_context(second)])
    with pytest.raises(RuntimeError, match="already"):
        await TestServer(app).start_server()
    await app.cleanup()
    assert not first.is_open()
    assert not second.is_open()
