"""An aiohttp service that caches slow reports in Redis, one or several per request.

    python aiohttp_app.py

Set `CACHE_URL` to the address of your server (`redis://127.0.0.1:6379/0`); the default is a private
server that runs as long as the service.
"""

import asyncio
import os
from datetime import timedelta

from aiohttp import web

from async_redis_cache import AsyncRedisCache, Namespace
from async_redis_cache.aiohttp import cache_context

REPORTS = web.AppKey("REPORTS", Namespace[dict[str, object]])

routes = web.RouteTableDef()


async def render_report(city: str) -> dict[str, object]:
    """Replace this with your own slow function."""
    await asyncio.sleep(0.05)
    return {"city": city, "temperature": len(city) * 2.5}


async def render_reports(cities: list[str]) -> dict[str, dict[str, object]]:
    rendered = await asyncio.gather(*map(render_report, cities))
    return dict(zip(cities, rendered, strict=True))


@routes.get("/reports/{city}")
async def report(request: web.Request) -> web.Response:
    city = request.match_info["city"]
    # Concurrent requests share one load. While Redis is unreachable, the loader runs without it.
    found = await request.app[REPORTS].get_or_load(city, lambda: render_report(city))
    return web.json_response(found)


@routes.get("/reports")
async def reports(request: web.Request) -> web.Response:
    """Read all requested reports from the cache together, and render the missing ones."""
    cities = request.query.getall("city", [])
    found = await request.app[REPORTS].get_or_load_many(cities, render_reports)
    return web.json_response(found)


@routes.delete("/reports/{city}")
async def delete_report(request: web.Request) -> web.Response:
    removed = await request.app[REPORTS].delete(request.match_info["city"])
    return web.json_response({"removed": removed})


def make_app(cache_url: str) -> web.Application:
    cache = AsyncRedisCache.from_url(cache_url, key_prefix="weather:")
    app = web.Application()
    app[REPORTS] = cache.namespace("report", ttl=timedelta(minutes=5), long_keys="hash")
    app.add_routes(routes)
    app.cleanup_ctx.append(cache_context(cache))
    return app


if __name__ == "__main__":
    web.run_app(make_app(os.environ.get("CACHE_URL", "embedded://")))
