"""Tags that are added to a response before its handler runs, under both middlewares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import Depends, FastAPI

from async_redis_cache import AsyncRedisCache
from async_redis_cache import aiohttp as on_aiohttp
from async_redis_cache import asgi as on_asgi

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from harness import Server

pytestmark = pytest.mark.depends_on()


def tag_by_tenant() -> None:
    """A dependency that knows what the response depends on."""
    on_asgi.add_response_tags("tenant:7")


@web.middleware
async def tagging(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A middleware that knows what the response depends on."""
    on_aiohttp.add_response_tags("tenant:7")
    return await handler(request)


async def test_tag_of_a_dependency_invalidates(any_server: Server, key_prefix: str) -> None:
    """A dependency of FastAPI adds its tags before the cache is read, and they apply to the response that is stored."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)
    app = FastAPI()
    app.add_middleware(on_asgi.ResponseCache, cache=cache)

    @app.get("/", dependencies=[Depends(tag_by_tenant)])
    @on_asgi.cache_response(ttl=60, tags=["page"])
    async def page() -> str:
        return "text"

    transport = httpx.ASGITransport(app)
    async with cache, httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        statuses = [(await client.get("/")).headers["cache-status"] for _ in range(2)]
        for tag in ("tenant:7", "page"):
            await cache.invalidate_tags(None, tag)
            statuses.append((await client.get("/")).headers["cache-status"])
    assert ["; hit" in status for status in statuses] == [False, True, False, False]


async def test_tag_of_a_middleware_of_aiohttp_invalidates(
    any_server: Server, key_prefix: str
) -> None:
    """So does a middleware of aiohttp inside the one that stores responses."""
    cache = AsyncRedisCache.from_url(any_server.url, key_prefix=key_prefix)

    @on_aiohttp.cache_response(ttl=60)
    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="text")

    app = web.Application(middlewares=[on_aiohttp.response_cache(), tagging])
    app.cleanup_ctx.append(on_aiohttp.cache_context(cache))
    app.router.add_get("/", page)
    statuses: list[str] = []
    async with TestClient(TestServer(app)) as client:
        for is_invalidated in (False, False, True):
            if is_invalidated:
                await cache.invalidate_tags(None, "tenant:7")
            async with client.get("/") as response:
                statuses.append(response.headers["cache-status"])
    assert ["; hit" in status for status in statuses] == [False, True, False]
