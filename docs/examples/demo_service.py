"""The service of the demo: FastAPI in front of a store that is slow. `demo.py` starts it.

`/plain/7` asks the store each time, `/cached/7` asks the cache first; the header `x-source` of an
answer says where it came from, and `/figures` what it took so far.
"""

import asyncio
import os
from contextlib import suppress
from dataclasses import asdict

from fastapi import FastAPI, Response
from pydantic import BaseModel

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache.fastapi import CacheDep, cache_lifespan

QUERY_MS = 50
QUERIES_AT_ONCE = 8


class Product(BaseModel):
    id: int
    name: str
    price: float


class SlowStore:
    """A database as many are: a query takes its time, and the pool has so many connections."""

    def __init__(self) -> None:
        self.loads = 0
        self._connections = asyncio.Semaphore(QUERIES_AT_ONCE)

    async def load(self, product_id: int) -> Product:
        async with self._connections:
            self.loads += 1
            await asyncio.sleep(QUERY_MS / 1000)
        return Product(id=product_id, name=f"Product {product_id}", price=product_id * 1.5)


store = SlowStore()
app = FastAPI(
    lifespan=cache_lifespan(
        AsyncRedisCache.from_url(
            os.environ.get("CACHE_URL", "embedded://"),
            key_prefix="demo:",
            retries=1,  # what a cache is worth where the store can stand in for it
            command_timeout=3_000,  # a demo runs on busy machines too
            require_connection=False,
        )
    )
)


@app.get("/plain/{product_id}")
async def plain(product_id: int, response: Response) -> Product:
    response.headers["x-source"] = "store"
    return await store.load(product_id)


@app.get("/cached/{product_id}")
async def cached(product_id: int, response: Response, cache: CacheDep) -> Product:
    key = f"product:{product_id}"
    try:
        product = await cache.retrieve(None, key, type=Product)
    except CacheError:  # the cache is away: answer without it
        response.headers["x-source"] = "store, cache away"
        return await store.load(product_id)
    if product is not None:
        response.headers["x-source"] = "cache"
        return product

    response.headers["x-source"] = "store"
    product = await store.load(product_id)
    with suppress(CacheError):
        await cache.store(None, key, product)
    return product


@app.get("/figures")
async def figures(cache: CacheDep) -> dict[str, int]:
    return {"store_loads": store.loads, **asdict(cache.stats())}
