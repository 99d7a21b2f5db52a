"""A FastAPI service that caches its database queries, and one whole response, in Redis.

    uvicorn fastapi_app:app

Set `CACHE_URL` to the address of your server (`redis://127.0.0.1:6379/0`); the default is a private
server that runs as long as the service.
"""

import asyncio
import os
from contextlib import suppress
from datetime import timedelta

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache.asgi import ResponseCache, cache_response
from async_redis_cache.fastapi import CacheDep, cache_lifespan


class Product(BaseModel):
    id: int
    name: str
    price: float


class Database:
    """Replace this with your own database; each of its queries takes 50 ms."""

    def __init__(self) -> None:
        self.queries = 0
        self.products = {
            n: Product(id=n, name=f"Product {n}", price=n * 1.5) for n in range(1, 100)
        }

    async def find(self, product_id: int) -> Product | None:
        self.queries += 1
        await asyncio.sleep(0.05)
        return self.products.get(product_id)

    async def all(self) -> list[Product]:
        self.queries += 1
        await asyncio.sleep(0.05)
        return list(self.products.values())

    async def save(self, product: Product) -> None:
        await asyncio.sleep(0.05)
        self.products[product.id] = product


database = Database()
cache = AsyncRedisCache.from_url(
    os.environ.get("CACHE_URL", "embedded://"),
    key_prefix="shop:",  # in front of every key of this service
    require_connection=False,  # start even if Redis is unreachable
)
products = cache.namespace("product", type=Product, ttl=timedelta(minutes=1))
app = FastAPI(lifespan=cache_lifespan(cache))
app.add_middleware(ResponseCache, cache=cache)


# Concurrent requests share one call. While Redis is unreachable, requests call the function.
@products.cached("{product_id}")
async def find_product(product_id: int) -> Product:
    product = await database.find(product_id)
    if product is None:
        raise HTTPException(404, "no such product")
    return product


@app.get("/products/{product_id}")
async def read_product(product_id: int) -> Product:
    return await find_product(product_id)


# The whole response is stored, with an ETag. A successful PUT to the same URI invalidates it.
@app.get("/products")
@cache_response(ttl=timedelta(minutes=1))
async def read_catalogue() -> list[Product]:
    return await database.all()


@app.put("/products")
async def write_product(product: Product) -> Product:
    await database.save(product)
    with suppress(CacheError):  # it is tried again, and the old product expires within a minute
        await find_product.invalidate(product.id)
    return product


@app.get("/health")
async def health(cache: CacheDep) -> dict[str, object]:
    try:
        await cache.ping(None)
    except CacheError as error:
        return {"cache": type(error).__name__, "queries": database.queries}
    return {"cache": "up", "queries": database.queries, "hits": products.stats().hits}
