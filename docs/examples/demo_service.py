"""The FastAPI service of the demo, started by `demo.py` in two processes.

`/get-then-set/7` reads the cache, queries the database on a miss and writes the cache, as most
services do. `/products/7` does it in one call, `get_or_load_entry`. The header `X-Cache` tells
where the product came from, and `Server-Timing` how long that took in this process. The response
of `/shelves/7` is stored as a whole; that of `/uncached-shelves/7` is not.
"""

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from time import perf_counter

from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel

from async_redis_cache import AsyncRedisCache
from async_redis_cache.asgi import ResponseCache, cache_response
from async_redis_cache.fastapi import cache_lifespan

QUERY_MS = 50
CONNECTIONS = 10
PATIENCE = int(os.environ.get("DEMO_PATIENCE", "1"))
"""A factor for the deadlines: 4 or so where a busy machine stalls for half a second, 20 where it stalls for seconds."""
COMMAND_TIMEOUT_MS = 500 * PATIENCE
SHELF = 50
"""Products in a shelf."""


class Product(BaseModel):
    id: int
    name: str
    price: float


class Database:
    """A database with a small connection pool, which the demo can take down."""

    def __init__(self) -> None:
        self.is_up = True
        self.queries = 0
        self._connections = asyncio.Semaphore(CONNECTIONS)

    async def find(self, product_id: int) -> Product:
        async with self._connections:
            self.queries += 1
            await asyncio.sleep(QUERY_MS / 1000)
            if not self.is_up:
                raise OSError("the database is down")
        return Product(id=product_id, name=f"Product {product_id}", price=product_id * 1.5)

    async def shelf(self, shelf: int) -> list[Product]:
        first = await self.find(shelf * SHELF)
        return [first.model_copy(update={"id": first.id + n}) for n in range(SHELF)]


database = Database()
cache = AsyncRedisCache.from_url(
    os.environ.get("CACHE_URL", "embedded://"),
    key_prefix="demo:",
    command_timeout=COMMAND_TIMEOUT_MS,  # deadline for Redis, retries included
    require_connection=False,  # start even if Redis is unreachable
    loading_lease_timeout=500 * PATIENCE,  # after a failed load, query again after this
)
products = cache.namespace(
    "product",
    type=Product,
    ttl=timedelta(seconds=1),  # a real service would take minutes
    refresh_at=0.5,  # reload in the background after half the TTL
    stale_timeout=timedelta(minutes=1),  # stale-if-error for a minute
)
app = FastAPI(lifespan=cache_lifespan(cache))
app.add_middleware(ResponseCache, cache=cache)


@contextmanager
def timed(response: Response) -> Generator[None]:
    began = perf_counter()
    yield
    response.headers["Server-Timing"] = f"product;dur={(perf_counter() - began) * 1000:.3f}"


@app.get("/get-then-set/{product_id}")
async def get_then_set(product_id: int, response: Response) -> Product:
    with timed(response):
        product = await products.get(str(product_id))
        if product is None:
            product = await database.find(product_id)
            await products.set(str(product_id), product)
    return product


@app.get("/products/{product_id}")
async def find_product(product_id: int, response: Response) -> Product:
    with timed(response):
        try:
            entry = await products.get_or_load_entry(
                str(product_id), partial(database.find, product_id)
            )
        except OSError:
            raise HTTPException(503) from None
    response.headers["X-Cache"] = entry.status
    if entry.value is None:
        raise HTTPException(404)
    return entry.value


@app.get("/shelves/{shelf}")
@cache_response(ttl=timedelta(minutes=1))
async def read_shelf(shelf: int) -> list[Product]:
    return await database.shelf(shelf)


@app.get("/uncached-shelves/{shelf}")
async def read_uncached_shelf(shelf: int) -> list[Product]:
    return await database.shelf(shelf)


@app.get("/queries")
async def queries() -> int:
    return database.queries


@app.put("/database/{state}")
async def switch_database(state: str) -> None:
    database.is_up = state == "up"
