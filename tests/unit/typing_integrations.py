"""What type checkers see of the integrations: checked by mypy and pyright, never executed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, assert_type

from aiohttp import web
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from async_redis_cache import AsyncRedisCache, RedisCache, cached
from async_redis_cache import aiohttp as aiohttp_cache
from async_redis_cache.fastapi import CacheDep, cache_lifespan, cache_named, get_cache
from async_redis_cache.otel import instrument


class Product(BaseModel):
    name: str


CartCache = Annotated[AsyncRedisCache, Depends(cache_named("carts"))]


async def find() -> Product | None:
    raise NotImplementedError


async def handler(cache: CacheDep, carts: CartCache) -> Product | None:
    assert_type(cache, AsyncRedisCache)
    assert_type(carts, AsyncRedisCache)
    assert_type(await cache.retrieve(None, "key", type=Product), Product | None)
    return await cache.retrieve_or_load(None, "key", find, type=Product)


def application(pages: AsyncRedisCache, carts: AsyncRedisCache) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with cache_lifespan(pages)(app), cache_lifespan(carts, name="carts")(app):
            yield

    @cached(pages, key="page:{number}")
    async def page(number: int) -> Product:
        raise NotImplementedError

    FastAPI(lifespan=cache_lifespan(pages))
    app = FastAPI(lifespan=lifespan)
    app.get("/")(handler)
    app.get("/pages/{number}")(page)
    app.dependency_overrides[get_cache] = lambda: carts
    return app


def aiohttp_application(pages: AsyncRedisCache) -> None:
    carts = web.AppKey("carts", AsyncRedisCache)
    app = web.Application()
    app.cleanup_ctx.append(aiohttp_cache.cache_context(pages))
    context: Callable[[web.Application], AsyncIterator[None]] = aiohttp_cache.cache_context(
        pages, carts
    )
    app.cleanup_ctx.append(context)


async def aiohttp_handler(request: web.Request) -> web.Response:
    assert_type(aiohttp_cache.get_cache(request), AsyncRedisCache)
    return web.Response()


def observed(cache: AsyncRedisCache, plain: RedisCache) -> None:
    stop: Callable[[], None] = instrument(cache, name="products")
    stop()
    instrument(plain)
    # What is no cache has nothing to observe.
    instrument("products")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cache_lifespan(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aiohttp_cache.cache_context(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
