"""An aiohttp service that caches slow reports in Redis, one or several per request.

    python aiohttp_app.py

Set `CACHE_URL` to the address of your server (`redis://127.0.0.1:6379/0`); the default is a private
server that runs as long as the service.
"""

import asyncio
import os
from contextlib import suppress
from datetime import timedelta

from aiohttp import web

from async_redis_cache import AsyncRedisCache, CacheError
from async_redis_cache.aiohttp import cache_context, get_cache

routes = web.RouteTableDef()


async def render_report(city: str) -> dict[str, object]:
    """Replace this with your own slow function."""
    await asyncio.sleep(0.05)
    return {"city": city, "temperature": len(city) * 2.5}


@routes.get("/reports/{city}")
async def report(request: web.Request) -> web.Response:
    city = request.match_info["city"]
    cache = get_cache(request)
    try:
        found = await cache.retrieve(None, city)
    except CacheError:  # Redis is unreachable: continue without it
        return web.json_response(await render_report(city))
    if found is None:
        found = await render_report(city)
        with suppress(CacheError):
            await cache.store(None, city, found, timedelta(minutes=5))
    return web.json_response(found)


@routes.get("/reports")
async def reports(request: web.Request) -> web.Response:
    """Read all requested reports from the cache in one round trip, and render the missing ones."""
    cities = request.query.getall("city", [])
    cache = get_cache(request)
    found: dict[str, object] = {}
    with suppress(CacheError):
        found = await cache.retrieve_many(None, cities)
    missing = [city for city in cities if city not in found]
    rendered = await asyncio.gather(*map(render_report, missing))
    loaded = dict(zip(missing, rendered, strict=True))
    with suppress(CacheError):
        await cache.store_many(None, loaded, timedelta(minutes=5))
    return web.json_response(found | loaded)


@routes.delete("/reports/{city}")
async def delete_report(request: web.Request) -> web.Response:
    removed = await get_cache(request).remove(None, request.match_info["city"])
    return web.json_response({"removed": removed is not None})


def make_app(cache_url: str) -> web.Application:
    app = web.Application()
    app.add_routes(routes)
    app.cleanup_ctx.append(
        cache_context(AsyncRedisCache.from_url(cache_url, key_prefix="weather:"))
    )
    return app


if __name__ == "__main__":
    web.run_app(make_app(os.environ.get("CACHE_URL", "embedded://")))
