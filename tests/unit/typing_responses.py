"""What type checkers see of the cache of HTTP responses: checked by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, assert_type

from aiohttp import web
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware

from async_redis_cache import AsyncRedisCache, RedisCache
from async_redis_cache import aiohttp as aiohttp_cache
from async_redis_cache import fastapi as fastapi_cache
from async_redis_cache.asgi import (
    ResponseCache,
    ResponseOptions,
    cache_response,
    invalidate_url,
    invalidate_url_sync,
)

RULES: dict[str, ResponseOptions] = {
    "/pages/*": {"ttl": timedelta(minutes=1), "tags": ["pages"], "parameters": ["page"]},
    "/typo/*": {"tll": 60},  # type: ignore[typeddict-unknown-key]  # pyright: ignore[reportAssignmentType]
}


def applications(cache: AsyncRedisCache) -> tuple[FastAPI, Starlette, ResponseCache]:
    app = FastAPI(dependencies=[Depends(fastapi_cache.cache_response(ttl=60))])
    app.add_middleware(ResponseCache, cache=cache, rules=RULES)
    pages = Starlette(middleware=[Middleware(ResponseCache, cache=cache, shows_key=True)])
    return app, pages, ResponseCache(pages, cache=cache)


@cache_response(ttl=60)
async def read_page(page: int, size: int = 10) -> str:
    return f"{page}/{size}"


@cache_response(ttl="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def read_number() -> int:
    return 1


@aiohttp_cache.cache_response(missing_ttl=5)
async def show(request: web.Request) -> web.StreamResponse:
    return web.Response(text=request.path)


async def call(cache: AsyncRedisCache) -> None:
    await read_page(1, size=2)
    await read_page("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await invalidate_url(cache, "http://shop/"), None)
    show_page: Callable[[web.Request], Awaitable[web.StreamResponse]] = show
    responses: Any = aiohttp_cache.response_cache(rules=RULES)
    web.Application(middlewares=[responses]).router.add_get("/", show_page)


def job(cache: RedisCache) -> None:
    invalidate_url_sync(cache, "http://shop/", headers={"X-Forwarded-Prefix": "/shop"})
    invalidate_url(cache, "http://shop/")  # type: ignore[arg-type, unused-coroutine]  # pyright: ignore[reportArgumentType, reportUnusedCoroutine]
