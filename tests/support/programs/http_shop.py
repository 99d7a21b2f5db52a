"""A service with a cached page, for `uvicorn http_shop:app --workers 2`. APP_CACHE_URL is the server of the cache."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

from fastapi import Body, FastAPI

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, cache_response
from async_redis_cache.fastapi import cache_lifespan

cache = AsyncRedisCache.from_url(
    os.environ["APP_CACHE_URL"], key_prefix="shop:", command_timeout=20_000
)
stock = cache.namespace("stock", type=int)
runs = cache.namespace("runs", type=int)
service = FastAPI(lifespan=cache_lifespan(cache))


@service.get("/stock")
@cache_response(ttl=60)
async def read() -> dict[str, int | None]:
    """Return the stock, after a time in which other requests arrive."""
    run = await runs.incr("read")
    amount = await stock.get("tea")
    await asyncio.sleep(0.2)
    return {"amount": amount, "run": run}


@service.put("/stock")
async def write(amount: Annotated[int, Body()]) -> None:
    """Set the stock."""
    await stock.set("tea", amount)


@service.put("/stock/clear")
async def write_page(amount: Annotated[int, Body()]) -> None:
    """Set the stock, and invalidate the page of another URI by its tag."""
    await stock.set("tea", amount)
    await cache.invalidate_tags(None, "stock")


cached = ResponseCache(service, cache=cache, rules={"/stock": {"ttl": 60, "tags": ["stock"]}})


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Say in each response which worker has sent it."""

    async def send_marked(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-worker", b"%d" % os.getpid())]
        await send(message)

    await cached(scope, receive, send_marked)
